//! The activator's process.

use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    activator::run(activator::Args::parse()).await
}
