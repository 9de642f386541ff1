//! Decisions in words for people. Pure.

use autoscale::{Decision, Metric, Policy, Reason};

/// Why a decision is as it is, with its numbers.
pub fn decision(policy: &Policy, decision: &Decision) -> String {
    let Decision { reason, load, .. } = decision;
    let unit = match policy.metric {
        Metric::Concurrency => "requests at once",
        Metric::Rps => "requests a second",
    };
    let (stable, panic, aim) = (load.stable, load.panic, policy.aim());
    let (window, panic_window) = (policy.window, policy.panic_window);
    let over_window = format!("{stable:.1} {unit} over {window:?}, {aim:.1} a pod");
    let over_panic = format!("{panic:.1} {unit} over {panic_window:?}, {aim:.1} a pod");
    match reason {
        Reason::Stable => over_window,
        Reason::Panic => format!("a sudden rise: {over_panic}"),
        Reason::PanicHold => format!("what a sudden rise has asked for stays for {window:?}"),
        Reason::UpRate => format!("scale.maxUpRate bounds the way up ({over_panic})"),
        Reason::DownRate => format!("scale.maxDownRate bounds the way down ({over_window})"),
        Reason::DownTolerance => format!(
            "fewer pods would have less than {:.0} % of their room free ({over_window})",
            policy.down_tolerance * 100.0
        ),
        Reason::DownDelay => format!("scale.downDelay holds the count ({over_window})"),
        Reason::Activation => "scale.activation is the least that starts".into(),
        Reason::Initial => "scale.initial asks for it".into(),
        Reason::Min => "scale.min asks for it".into(),
        Reason::Max => format!("scale.max allows no more ({over_window})"),
        Reason::Waiting => "requests wait and nothing runs".into(),
        Reason::Recent => format!(
            "the last request ended less than {:?} ago",
            policy.idle_after
        ),
        Reason::Idle => format!(
            "nothing was in flight for {:?} (scale.idleAfter)",
            policy.idle_after
        ),
        Reason::Asleep => "nobody calls".into(),
        Reason::NoData => "an activator does not report, so nothing is taken away".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use autoscale::Load;

    #[test]
    fn numbers_are_those_of_the_decision() {
        let mut made = Decision {
            desired: 5,
            reason: Reason::Stable,
            load: Load {
                stable: 31.25,
                panic: 60.0,
            },
            panicking: false,
            again_in: None,
        };
        let policy = Policy {
            target: 10.0,
            ..Policy::default()
        };
        assert_eq!(
            decision(&policy, &made),
            "31.2 requests at once over 60s, 7.0 a pod"
        );
        made.reason = Reason::Panic;
        assert_eq!(
            decision(&policy, &made),
            "a sudden rise: 60.0 requests at once over 6s, 7.0 a pod"
        );
    }
}
