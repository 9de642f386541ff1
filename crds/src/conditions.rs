//! Conditions of a Function and the closed set of their reasons.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// A condition of a Function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// Requests are answered; rolls up [`Self::RevisionReady`] and [`Self::Routed`].
    Ready,
    /// Pods of the latest template start.
    RevisionReady,
    /// The Function's Service leads to activators.
    Routed,
    /// Pods run, or are on their way. `False` is healthy.
    Active,
    /// The count follows the load; `False` while somebody else changes it.
    ScalingActive,
    /// Every name of `spec.hosts` leads to this Function. Only of Functions that have some.
    HostsClaimed,
    /// The certificate of `spec.tls` is served, and good. Only of Functions that have one.
    CertificateReady,
}

impl ConditionType {
    /// All, in the order in which people read them.
    pub const ALL: [Self; 7] = [
        Self::Ready,
        Self::RevisionReady,
        Self::Routed,
        Self::Active,
        Self::ScalingActive,
        Self::HostsClaimed,
        Self::CertificateReady,
    ];

    /// The condition's name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::RevisionReady => "RevisionReady",
            Self::Routed => "Routed",
            Self::Active => "Active",
            Self::ScalingActive => "ScalingActive",
            Self::HostsClaimed => "HostsClaimed",
            Self::CertificateReady => "CertificateReady",
        }
    }
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Pods are ready and take requests.
    Serving,
    /// No pods, and none needed: the next request starts one.
    ScaledToZero,
    /// Pods are starting.
    Starting,
    /// Pods run because `scale.min` asks for them, or because requests came within `scale.idleAfter`.
    Running,
    /// A new revision's first pods are not ready yet; the former one takes the requests.
    Deploying,
    /// An image cannot be pulled.
    ImagePullFailed,
    /// A container exits soon after its start.
    ContainerCrashed,
    /// A container cannot be made: a missing ConfigMap or Secret, a bad command.
    ContainerNotCreated,
    /// No node takes the pod.
    Unschedulable,
    /// A quota, limit or admission rule refuses the pod.
    PodRefused,
    /// The API server refuses the template.
    InvalidTemplate,
    /// Activators are connected and listen for this Function.
    ActivatorsReady,
    /// No activator is connected.
    NoActivator,
    /// No activator is connected, so clients are sent straight to the pods that run.
    FailOpen,
    /// The count follows the load.
    FollowsLoad,
    /// Somebody else changes the count of a Deployment of this Function.
    ReplicasChangedByOther,
    /// A Service of the Function's name belongs to somebody else.
    ServiceConflict,
    /// All ports for Functions are taken.
    NoPortLeft,
    /// All host names lead to this Function.
    HostsLeadHere,
    /// A host name belongs to another Function.
    HostTaken,
    /// A host name is one that Services of the cluster have.
    HostReserved,
    /// The certificate is served and covers all hosts.
    CertificateServed,
    /// The Secret is being read.
    ReadingSecret,
    /// This installation serves no TLS.
    TlsDisabled,
    /// There is no such Secret.
    SecretNotFound,
    /// The Secret has another type, or its certificate or key cannot be read.
    SecretInvalid,
    /// The key is not the certificate's.
    CertificateKeyMismatch,
    /// The certificate is served, but is too old.
    CertificateExpired,
    /// The certificate is served, but is not valid before a time to come.
    CertificateNotYetValid,
    /// The certificate does not cover a host, which therefore has no TLS.
    HostNotCovered,
}

impl Reason {
    /// The reason as it stands in the API: one CamelCase word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "Serving",
            Self::ScaledToZero => "ScaledToZero",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Deploying => "Deploying",
            Self::ImagePullFailed => "ImagePullFailed",
            Self::ContainerCrashed => "ContainerCrashed",
            Self::ContainerNotCreated => "ContainerNotCreated",
            Self::Unschedulable => "Unschedulable",
            Self::PodRefused => "PodRefused",
            Self::InvalidTemplate => "InvalidTemplate",
            Self::ActivatorsReady => "ActivatorsReady",
            Self::NoActivator => "NoActivator",
            Self::FailOpen => "FailOpen",
            Self::FollowsLoad => "FollowsLoad",
            Self::ReplicasChangedByOther => "ReplicasChangedByOther",
            Self::ServiceConflict => "ServiceConflict",
            Self::NoPortLeft => "NoPortLeft",
            Self::HostsLeadHere => "HostsLeadHere",
            Self::HostTaken => "HostTaken",
            Self::HostReserved => "HostReserved",
            Self::CertificateServed => "CertificateServed",
            Self::ReadingSecret => "ReadingSecret",
            Self::TlsDisabled => "TlsDisabled",
            Self::SecretNotFound => "SecretNotFound",
            Self::SecretInvalid => "SecretInvalid",
            Self::CertificateKeyMismatch => "CertificateKeyMismatch",
            Self::CertificateExpired => "CertificateExpired",
            Self::CertificateNotYetValid => "CertificateNotYetValid",
            Self::HostNotCovered => "HostNotCovered",
        }
    }
}

/// What a condition says, before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `Some(true)`: True, `Some(false)`: False, `None`: Unknown.
    pub status: Option<bool>,
    /// Why.
    pub reason: Reason,
    /// For people; may be empty.
    pub message: String,
}

impl Verdict {
    /// A condition that is `True`.
    pub fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: Some(true),
            reason,
            message: message.into(),
        }
    }

    /// A condition that is `False`.
    pub fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: Some(false),
            reason,
            message: message.into(),
        }
    }

    /// A condition that is not known yet.
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: None,
            reason,
            message: message.into(),
        }
    }

    fn status_str(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// Turns verdicts into conditions. A condition whose status has not changed since `before` keeps its transition time.
pub fn conditions(
    verdicts: &[(ConditionType, Verdict)],
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    verdicts
        .iter()
        .map(|(kind, verdict)| {
            let status = verdict.status_str();
            let since = before
                .iter()
                .find(|c| c.type_ == kind.as_str() && c.status == status)
                .map_or(Time(now), |c| c.last_transition_time.clone());
            Condition {
                type_: kind.as_str().into(),
                status: status.into(),
                reason: verdict.reason.as_str().into(),
                message: verdict.message.clone(),
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_time_changes_with_the_status_only() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let ready = |v: Verdict| [(ConditionType::Ready, v)];
        let first = conditions(
            &ready(Verdict::yes(Reason::Serving, "")),
            &[],
            Some(1),
            at(10),
        );
        let same = conditions(
            &ready(Verdict::yes(Reason::ScaledToZero, "")),
            &first,
            Some(2),
            at(20),
        );
        assert_eq!(same[0].last_transition_time, Time(at(10)));
        assert_eq!(same[0].reason, "ScaledToZero");
        let other = conditions(
            &ready(Verdict::no(Reason::NoActivator, "")),
            &same,
            Some(2),
            at(30),
        );
        assert_eq!(other[0].last_transition_time, Time(at(30)));
    }
}
