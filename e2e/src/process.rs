//! Processes of pods that run on this machine.

use std::fs;

/// The process of this name in the pod with this UID. Both cgroup drivers have the UID in the path, one with `_` for `-`.
pub fn find(name: &str, uid: &str) -> Option<i32> {
    let underscored = uid.replace('-', "_");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).ok()?;
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        (comm.trim() == name && (cgroup.contains(uid) || cgroup.contains(&underscored)))
            .then_some(pid)
    })
}
