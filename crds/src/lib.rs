//! Ebb's contract: everything that two of its parts, or Ebb and its users, must agree on.
//!
//! * [`function`]: the `Function` resource (feature `api`),
//! * [`names`]: labels, annotations, ports and the names of children,
//! * [`control`]: the frames between the operator and the activators.
//!
//! Nothing here does IO.

#[cfg(feature = "api")]
pub mod conditions;
pub mod control;
#[cfg(feature = "api")]
pub mod function;
pub mod names;
#[cfg(feature = "api")]
pub mod reference;
#[cfg(feature = "api")]
pub mod scale;
#[cfg(feature = "api")]
pub mod schema;
