//! Ebb's operator: see `operator --help`.

use clap::Parser;
use operator::args::{Cli, Command};

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(args) => {
            runtime::telemetry::init(&args.telemetry)?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            runtime.block_on(operator::run(*args))
        }
        Command::Crd => print(&crds::schema::crd_yaml()?),
        Command::Reference => print(&crds::reference::markdown()?),
        Command::Generate { root } => operator::generate::files(&root),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
