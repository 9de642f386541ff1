//! The activator's flags; each can also be set by its environment variable.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use runtime::telemetry;

use crate::{access, origin::Networks};

/// Ebb's activator: a reverse proxy that holds requests while pods start.
#[derive(Clone, Debug, clap::Parser)]
#[command(version)]
pub struct Args {
    /// Where requests to all Functions arrive; their Host chooses the Function.
    #[arg(long, env = "EBB_GATEWAY_LISTEN", default_value = "0.0.0.0:8080")]
    pub gateway_listen: SocketAddr,
    /// Where operators open their control streams (HTTP/2).
    #[arg(long, env = "EBB_CONTROL_LISTEN", default_value = "0.0.0.0:8901")]
    pub control_listen: SocketAddr,
    /// Where /livez, /readyz and /metrics are.
    #[arg(long, env = "EBB_ADMIN_LISTEN", default_value = "0.0.0.0:8902")]
    pub admin_listen: SocketAddr,
    /// The address on which the single Functions' ports are opened.
    #[arg(long, env = "EBB_FUNCTION_LISTEN_IP", default_value = "0.0.0.0")]
    pub function_listen_ip: IpAddr,
    /// File with the token that operators must present. It is read again for each stream, so it can be replaced at any time.
    #[arg(long, env = "EBB_CONTROL_TOKEN_FILE")]
    pub control_token_file: PathBuf,
    /// File with the control port's certificate in PEM. Without it the control port has no TLS, so that whoever can read the traffic learns the
    /// token. Like the token, it and its key are read again for each stream.
    #[arg(
        long,
        env = "EBB_CONTROL_CERTIFICATE_FILE",
        requires = "control_key_file"
    )]
    pub control_certificate_file: Option<PathBuf>,
    /// File with the private key of that certificate.
    #[arg(
        long,
        env = "EBB_CONTROL_KEY_FILE",
        requires = "control_certificate_file"
    )]
    pub control_key_file: Option<PathBuf>,
    /// Name of this pod, by which operators know it.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// Most requests of one Function that wait for a pod; more are answered 503.
    #[arg(long, env = "EBB_MAX_HELD_PER_FUNCTION", default_value_t = 10_000)]
    pub max_held_per_function: usize,
    /// Most requests over all Functions that wait. When there are more, those of the namespace that has most are answered 503.
    #[arg(long, env = "EBB_MAX_HELD", default_value_t = 50_000)]
    pub max_held: usize,
    /// Most memory for requests that wait, in MiB, shared in the same way. Default: half of the memory limit; 512 without one.
    #[arg(long, env = "EBB_HELD_MEMORY_MIB")]
    pub held_memory_mib: Option<usize>,
    /// Memory that this process may have, in MiB. When there is little left of it, new connections and requests are refused. Default: what the container
    /// may have; nothing is refused without a limit.
    #[arg(long, env = "EBB_MEMORY_LIMIT_MIB")]
    pub memory_limit_mib: Option<usize>,
    /// Most client connections; more are closed at once. It is lowered to a quarter of the limit of open files, which is raised as far as it may be.
    #[arg(long, env = "EBB_MAX_CONNECTIONS", default_value_t = 65_536)]
    pub max_connections: usize,
    /// Networks, with commas between, of clients that are proxies themselves: what they say in X-Forwarded-* and Forwarded is kept, what others say is dropped.
    #[arg(long, env = "EBB_TRUSTED_PROXIES", default_value = "0.0.0.0/0,::/0")]
    pub trusted_proxies: Networks,
    /// Share of the requests, from 0 to 1, that are logged, each with a line when it ends (target `access`); those that the activator itself answers with
    /// 5xx always are. Default: none are logged.
    #[arg(long, env = "EBB_ACCESS_LOG", value_parser = share)]
    pub access_log: Option<f64>,
    /// Threads that serve requests, each with connections of its own. Default: one for each core that the process may use.
    #[arg(long, env = "EBB_CORES")]
    pub cores: Option<usize>,
    /// Seconds after SIGTERM during which new connections are still taken: so long can it take until every node's
    /// kube-proxy has heard that this pod is not ready and sends no more.
    #[arg(long, env = "EBB_DRAIN_DELAY", default_value = "3", value_parser = seconds)]
    pub drain_delay: Duration,
    /// Seconds after the delay within which requests must end; then their connections are closed. The pod's
    /// terminationGracePeriodSeconds must be longer than both together.
    #[arg(long, env = "EBB_DRAIN_TIMEOUT", default_value = "300", value_parser = seconds)]
    pub drain_timeout: Duration,
    /// Logging.
    #[command(flatten)]
    pub telemetry: telemetry::Args,
}

impl Args {
    /// How this process logs. Lines that are asked for by their own flag are not left out by a level that is meant for others.
    pub(crate) fn logging(&self) -> telemetry::Args {
        let mut logging = self.telemetry.clone();
        if self.access_log.is_some() {
            logging.log = format!("{}=info,{}", access::TARGET, logging.log);
        }
        logging
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number")?;
    let valid = (0.0..=1.0).contains(&share);
    valid.then_some(share).ok_or("not from 0 to 1".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn flags_are_consistent_and_have_defaults() {
        Args::command().debug_assert();
        let args = Args::parse_from([
            "activator",
            "--control-token-file=/token",
            "--pod-name=a-0",
            "--drain-delay=0.5",
        ]);
        assert_eq!(args.drain_delay, Duration::from_millis(500));
        assert_eq!(args.gateway_listen.port(), 8080);
        assert!(seconds("-1").is_err() && seconds("x").is_err());
        assert_eq!(args.logging().log, "info");
        for wrong in ["-0.1", "1.1", "NaN", "x"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        let access_log = Some(share("0.5").expect("a share"));
        let logged = Args { access_log, ..args };
        assert_eq!(logged.logging().log, "access=info,info");
    }
}
