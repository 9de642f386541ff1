//! Who may go, to which pod, and who must wait: one Function's bounded queue and the slots of its pods; and how much may wait in all.
//!
//! A [`Gate`] knows the pods of each revision and how much is in flight to each. A request [acquires](Gate::acquire) a [`Slot`]
//! at once when a pod can take it, else a place in line: a [`Waiter`], first come first served within its revision. Dropping a slot or
//! a waiter gives it back at once, so a request can be cancelled at any point. There is no IO here and no task: all that happens,
//! happens inside calls. A [`Budget`] shares what may wait over all gates among tenants.

mod activity;
mod budget;
mod gate;
mod lane;
mod line;
mod pod;
mod state;

pub use activity::Sample;
pub use budget::{Budget, Most, OverBudget, Place};
pub use gate::{Gate, Notice};
pub use line::{Acquired, Closed, Probe, Slot, Urgency, Waiter};
pub use pod::{Pod, Target, Told};
