//! The activator's process.

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// Requests have threads of their own; this one has everything else.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    activator::run(activator::Args::parse()).await
}
