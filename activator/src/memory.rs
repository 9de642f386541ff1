//! How much memory this process may have.

/// Where a container finds its limit with cgroup v2, in bytes or as `max`.
const LIMIT: &str = "/sys/fs/cgroup/memory.max";

/// What requests that wait may take when there is no limit.
const WITHOUT_LIMIT: usize = 512 << 20;

/// Bytes for requests that wait: half of what the container may have, so that the rest is there for those that do not wait.
pub(crate) fn for_held() -> usize {
    let limit = std::fs::read_to_string(LIMIT).ok();
    let limit = limit.and_then(|text| text.trim().parse::<usize>().ok());
    limit.map_or(WITHOUT_LIMIT, |limit| limit / 2)
}
