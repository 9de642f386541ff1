//! Open files: how many this process may have, and so how many clients.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that a client may need: its connection, a second handle on it while its request is held, the connection to the pod, and as
/// much again for listeners, control streams and what is being closed.
const PER_CLIENT: u64 = 4;

/// Raises the limit of open files as far as this process may, and returns it.
pub(crate) fn raise_limit() -> u64 {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files is not known");
            return 1024;
        }
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
            soft
        }
    }
}

/// The most client connections: as many as asked for, but no more than there are files for. Beyond it a connection is closed at once, which
/// a client can see; a process without files left would fail in the middle of requests.
pub(crate) fn most_connections(asked: usize, files: u64) -> usize {
    let possible = usize::try_from(files / PER_CLIENT).unwrap_or(usize::MAX);
    if possible < asked {
        tracing::warn!(
            files,
            asked,
            possible,
            "fewer client connections than asked for: the limit of open files is too low"
        );
    }
    asked.min(possible).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_bounded_by_files() {
        assert_eq!(most_connections(65_536, 1_048_576), 65_536);
        assert_eq!(most_connections(65_536, 1_024), 256);
        assert_eq!(most_connections(10, 0), 1);
    }

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let raised = raise_limit();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be read");
        assert_eq!((soft, raised), (hard, hard));
    }
}
