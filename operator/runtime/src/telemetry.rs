//! Logs: one line an event on standard output, JSON for machines or text for people.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// Flags about logging.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "telemetry")] // each group of a command has another name, and the default is the name of the struct
pub struct Args {
    /// How log lines look.
    #[arg(long, env = "EBB_LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: Format,
    /// Which events are logged: a level, or directives such as `info,activator=debug`.
    #[arg(long, env = "EBB_LOG", default_value = "info")]
    pub log: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// Installs the process's logger. Call it once, first thing.
///
/// # Errors
/// If the filter cannot be read, or a logger is installed already.
pub fn init(args: &Args) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {:?} is not a filter", args.log))?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter);
    match args.log_format {
        Format::Json => logger.json().flatten_event(true).try_init(),
        Format::Text => logger.try_init(),
    }
    .map_err(|error| anyhow::anyhow!("a logger is installed already: {error}"))
}
