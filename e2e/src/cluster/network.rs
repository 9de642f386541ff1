//! The node's network namespace and the veth pair that joins it to the machine. The machine's own firewall and routes
//! stay as they are; the namespace's go with it.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};

use super::layout::{Layout, PODS, SERVICES};
use super::shell::run;

/// The /30 of a veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    base: u32,
}

/// 198.18.0.0/15, which no network uses: it is set aside for benchmarks.
const RANGE: (u32, u32) = (u32::from_be_bytes([198, 18, 0, 0]), 15);

impl Subnet {
    fn nth(n: u32) -> Self {
        let count = 1 << (30 - RANGE.1);
        Self {
            base: RANGE.0 + 4 * (n % count),
        }
    }

    fn host(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// The node's address.
    pub(crate) fn node(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2)
    }

    fn overlaps(self, (address, bits): (Ipv4Addr, u32)) -> bool {
        let shift = 32 - bits.min(30);
        u32::from(address).checked_shr(shift) == self.base.checked_shr(shift)
    }
}

/// Makes the namespace, joins it to the machine and returns the addresses of the join.
pub(crate) async fn create(layout: &Layout) -> Result<Subnet> {
    let subnet = free_subnet(layout).await?;
    let (netns, host, node) = (layout.name(), layout.host_link(), layout.node_link());
    let with_mask = |address: Ipv4Addr| format!("{address}/30");
    run("ip", &["netns", "add", &netns]).await?;
    run(
        "ip",
        &[
            "link", "add", &host, "type", "veth", "peer", "name", &node, "netns", &netns,
        ],
    )
    .await?;
    run(
        "ip",
        &["address", "add", &with_mask(subnet.host()), "dev", &host],
    )
    .await?;
    run("ip", &["link", "set", &host, "up"]).await?;
    run("ip", &["-n", &netns, "link", "set", "lo", "up"]).await?;
    run(
        "ip",
        &[
            "-n",
            &netns,
            "address",
            "add",
            &with_mask(subnet.node()),
            "dev",
            &node,
        ],
    )
    .await?;
    run("ip", &["-n", &netns, "link", "set", &node, "up"]).await?;
    // Without a route of some kind, a packet to a service would not even reach the rules that redirect it. There is no
    // default route: what is not in the cluster fails at once, instead of after a timeout.
    run(
        "ip",
        &["-n", &netns, "route", "add", SERVICES, "dev", &node],
    )
    .await?;
    inside(
        layout,
        &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
    )
    .await?;
    // Pods reach the machine under the node's address; it knows no route to theirs.
    let masquerade = [
        "iptables",
        "-w",
        "-t",
        "nat",
        "-A",
        "POSTROUTING",
        "-s",
        PODS,
        "-o",
        &node,
        "-j",
        "MASQUERADE",
    ];
    inside(layout, &masquerade).await?;
    // A packet to a service that kube-proxy does not redirect yet is refused. Sent on to nowhere it would be remembered as a connection that
    // is not redirected, and minutes later another one of the same ports would be taken for it.
    for chain in ["OUTPUT", "FORWARD"] {
        let refuse = [
            "iptables", "-w", "-A", chain, "-d", SERVICES, "-j", "REJECT",
        ];
        inside(layout, &refuse).await?;
    }
    Ok(subnet)
}

/// Runs a command in the namespace. Not by `ip netns exec`, which would hide /sys/fs/cgroup.
async fn inside(layout: &Layout, words: &[&str]) -> Result<String> {
    let netns = format!("--net={}", layout.netns_path().display());
    run("nsenter", &[&[netns.as_str(), "--"], words].concat()).await
}

/// The subnet of this checkout, or the next one that no interface of the machine uses.
async fn free_subnet(layout: &Layout) -> Result<Subnet> {
    let used = addresses(&run("ip", &["-oneline", "-4", "address", "show"]).await?);
    let first = (layout.hash() >> 32) as u32; // other bits than those of the cluster's name
    let free = |subnet: &Subnet| !used.iter().any(|&address| subnet.overlaps(address));
    match (0..1 << 15)
        .map(|n| Subnet::nth(first.wrapping_add(n)))
        .find(free)
    {
        Some(subnet) => Ok(subnet),
        None => bail!(
            "the machine's interfaces use all of 198.18.0.0/15, from which the cluster takes four addresses"
        ),
    }
}

/// The addresses in the output of `ip -oneline -4 address show`.
fn addresses(text: &str) -> Vec<(Ipv4Addr, u32)> {
    let address = |line: &str| {
        let word = line
            .split_whitespace()
            .skip_while(|word| *word != "inet")
            .nth(1)?;
        // A point-to-point address is shown without its length.
        let (address, bits) = word.split_once('/').unwrap_or((word, "32"));
        Some((address.parse().ok()?, bits.parse().ok()?))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_stay_in_the_range() {
        assert_eq!(Subnet::nth(0).host(), Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(
            Subnet::nth((1 << 15) - 1).node(),
            Ipv4Addr::new(198, 19, 255, 254)
        );
        assert_eq!(Subnet::nth(1 << 15), Subnet::nth(0));
    }

    #[test]
    fn overlaps_with_larger_and_smaller_networks() {
        let subnet = Subnet::nth(1); // 198.18.0.4/30
        assert!(subnet.overlaps((Ipv4Addr::new(198, 18, 0, 6), 32)));
        assert!(subnet.overlaps((Ipv4Addr::new(198, 18, 77, 1), 16)));
        assert!(subnet.overlaps((Ipv4Addr::new(10, 0, 0, 1), 0)));
        assert!(!subnet.overlaps((Ipv4Addr::new(198, 18, 0, 9), 30)));
    }

    #[test]
    fn reads_addresses() {
        let text = "1: lo    inet 127.0.0.1/8 scope host lo\\  valid_lft forever\n\
                    5: tun0    inet 10.8.0.6 peer 10.8.0.5/32 scope global tun0\n";
        assert_eq!(
            addresses(text),
            [(Ipv4Addr::LOCALHOST, 8), (Ipv4Addr::new(10, 8, 0, 6), 32)]
        );
    }
}
