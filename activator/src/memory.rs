//! How much memory this process may have, what it does when that runs out: it refuses work, before the kernel kills it with all
//! that it holds; and who gives back what is free.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::sleep;

use crate::metrics::Metrics;

/// Where a container finds its limit in bytes, with cgroup v2 and v1. The first says `max` if there is none.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// No machine has so much: cgroup v1 says a number above if there is no limit.
const UNLIMITED: usize = 1 << 60;

/// What requests that wait may take when there is no limit.
const WITHOUT_LIMIT: usize = 512 << 20;

/// Per cent of the limit from which on work is refused, and below which it is taken again. What is left is for the kernel's buffers of
/// connections, which count against a container's limit but are not the process' own, and for what comes until the next look.
const HIGH: usize = 90;
const LOW: usize = 80;

/// How often the memory is looked at, and how often from so many per cent of the limit on: a few connections can bring 100 MiB in a tenth of a
/// second.
const PERIOD: Duration = Duration::from_millis(100);
const NEAR_PERIOD: Duration = Duration::from_millis(10);
const NEAR: usize = 40;

/// How often free memory is given back to the system: before the allocator would do it, after a second, on a thread that serves requests.
const GIVE_BACK: Duration = Duration::from_millis(500);

/// Has the kernel give memory by the page and not in huge ones: where one page of a huge one is used, all of it would be resident.
pub(crate) fn by_the_page() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::warn!(%error, "the kernel goes on using huge pages: connections take more memory");
    }
}

/// Has a thread of its own give free memory back to the system for as long as the process lives. Left to itself the allocator does so
/// when a thread that serves requests happens to free something: after a crowd of 7,000 requests that stopped it for 4 ms.
///
/// # Errors
/// If the system gives no thread.
pub(crate) fn give_back_apart() -> io::Result<()> {
    let giving = thread::Builder::new().name("memory".to_owned());
    giving.spawn(|| {
        loop {
            thread::sleep(GIVE_BACK);
            give_back();
        }
    })?;
    Ok(())
}

#[expect(unsafe_code, reason = "the allocator has no other way to be asked")]
fn give_back() {
    // SAFETY: any thread may call it at any time; it takes no pointer and touches only what nobody has.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// Bytes that the container may have, if that is limited.
pub(crate) fn limit() -> Option<usize> {
    let texts = LIMITS
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    texts.into_iter().find_map(|text| bytes(&text))
}

fn bytes(limit: &str) -> Option<usize> {
    let limit = limit.trim().parse().ok();
    limit.filter(|limit| *limit < UNLIMITED)
}

/// Bytes for requests that wait: half of the limit, so that the rest is there for those that do not wait.
pub(crate) fn for_held(limit: Option<usize>) -> usize {
    limit.map_or(WITHOUT_LIMIT, |limit| limit / 2)
}

/// Whether memory is so scarce that work is refused. Read by each request.
#[derive(Debug, Default)]
pub(crate) struct Pressure(AtomicBool);

impl Pressure {
    pub(crate) fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Looks at this process' memory again and again. Runs until dropped.
pub(crate) async fn watch(limit: Option<usize>, pressure: Arc<Pressure>, metrics: Arc<Metrics>) {
    let mut period = PERIOD;
    loop {
        sleep(period).await;
        let Some(resident) = resident() else {
            return tracing::error!(
                "/proc/self/status does not tell this process' memory, so nothing is refused when it runs out"
            );
        };
        metrics
            .resident
            .set(i64::try_from(resident).unwrap_or(i64::MAX));
        let Some(limit) = limit else {
            continue;
        };
        let before = pressure.is_high();
        let now = is_high(before, resident, limit);
        if now != before {
            pressure.0.store(now, Ordering::Relaxed);
            metrics.shedding.set(i64::from(now));
            tell(now, resident, limit);
        }
        period = match resident >= share(limit, NEAR) {
            true => NEAR_PERIOD,
            false => PERIOD,
        };
    }
}

/// Whether work is to be refused, which it is already or not.
fn is_high(refused: bool, resident: usize, limit: usize) -> bool {
    let mark = if refused { LOW } else { HIGH };
    resident >= share(limit, mark)
}

fn share(limit: usize, per_cent: usize) -> usize {
    limit / 100 * per_cent
}

fn tell(high: bool, resident: usize, limit: usize) {
    let mib = |bytes: usize| bytes >> 20;
    let (resident_mib, limit_mib) = (mib(resident), mib(limit));
    if high {
        tracing::warn!(
            resident_mib,
            limit_mib,
            "memory runs out: new connections and requests are refused"
        );
    } else {
        tracing::info!(resident_mib, limit_mib, "there is memory again");
    }
}

/// Bytes of this process that are in memory.
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_limits_are_read() {
        assert_eq!(bytes("1073741824\n"), Some(1 << 30));
        assert_eq!(bytes("max\n"), None);
        assert_eq!(bytes("9223372036854771712\n"), None, "v1 without a limit");
        assert_eq!(for_held(Some(100)), 50);
        assert_eq!(for_held(None), WITHOUT_LIMIT);
    }

    #[test]
    fn between_the_marks_it_stays_as_it_is() {
        for (refused, resident, expected) in [
            (false, 89_999, false),
            (false, 90_000, true),
            (true, 89_999, true),
            (true, 80_000, true),
            (true, 79_999, false),
        ] {
            let high = is_high(refused, resident, 100_000);
            assert_eq!(high, expected, "{refused} {resident}");
        }
    }

    #[test]
    fn this_process_is_in_memory() {
        let resident = resident().expect("Linux tells");
        assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
    }
}
