//! What made a decision.

/// What made a decision, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The average over the window.
    Stable,
    /// The average over the panic window.
    Panic,
    /// A panic keeps what it has reached.
    PanicHold,
    /// The load asks for more than the rate of the way up allows.
    UpRate,
    /// The load asks for less than the rate of the way down allows.
    DownRate,
    /// The load would fit into fewer pods, but without the room that the tolerance asks for.
    DownTolerance,
    /// The load has not been lower for as long as the delay asks.
    DownDelay,
    /// The least that is started.
    Activation,
    /// A new revision has not had its initial pods yet.
    Initial,
    /// The load asks for fewer than the least.
    Min,
    /// The load asks for more than the most.
    Max,
    /// A request waits and nothing runs.
    Waiting,
    /// The last request ended less than `idle_after` ago.
    Recent,
    /// Nothing was in flight for `idle_after`.
    Idle,
    /// Nothing runs and nobody calls.
    Asleep,
    /// An activator does not report, so nothing is taken away.
    NoData,
}

impl Reason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 16] = [
        Self::Stable,
        Self::Panic,
        Self::PanicHold,
        Self::UpRate,
        Self::DownRate,
        Self::DownTolerance,
        Self::DownDelay,
        Self::Activation,
        Self::Initial,
        Self::Min,
        Self::Max,
        Self::Waiting,
        Self::Recent,
        Self::Idle,
        Self::Asleep,
        Self::NoData,
    ];

    /// The reason as a metric's label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Panic => "panic",
            Self::PanicHold => "panic_hold",
            Self::UpRate => "up_rate",
            Self::DownRate => "down_rate",
            Self::DownTolerance => "down_tolerance",
            Self::DownDelay => "down_delay",
            Self::Activation => "activation",
            Self::Initial => "initial",
            Self::Min => "min",
            Self::Max => "max",
            Self::Waiting => "waiting",
            Self::Recent => "recent",
            Self::Idle => "idle",
            Self::Asleep => "asleep",
            Self::NoData => "no_data",
        }
    }
}
