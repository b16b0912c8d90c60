//! The kinds of faults. Each is counted by its name, and a campaign in which one never happened proves nothing of it.

macro_rules! faults {
    ($($name:ident: $text:literal),* $(,)?) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = $text] $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// How it is called in counts and traces.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

faults! {
    CoordinatorCrashed: "coordinator crashed",
    CoordinatorCrashedAtWrite: "coordinator crashed beside a write",
    CoordinatorSuperseded: "coordinator does not know that it is over",
    ClockAhead: "coordinator's system clock jumped 1 h ahead",
    ClockBack: "coordinator's system clock jumped 1 h back",
    StoreSlow: "store slow",
    WriteFailed: "write failed",
    WriteUnknown: "write done, answer lost",
    ReadFailed: "read failed",
    ClaimFailed: "claim failed",
    ClaimUnknown: "claim done, answer lost",
    BeatFailed: "beat failed",
    BeatUnknown: "beat done, answer lost",
    CallLost: "call lost",
    CallRepeated: "call repeated",
    CallLate: "call late, after others",
    AnswerLost: "answer lost",
    AnswerRepeated: "answer repeated",
    AnswerLate: "answer late, after others",
    AnswerVeryLate: "answer very late",
    MessageLate: "message late",
    LinkSlow: "calls take seconds on their way",
    LinkBroken: "session broken",
    CutDown: "nothing gets to the participant",
    CutUp: "nothing comes from the participant",
    ParticipantCrashed: "participant crashed",
    ParticipantCrashedInside: "participant crashed inside a local transaction",
    ParticipantFrozen: "participant frozen",
    ParticipantSlow: "participant slow",
    NotReady: "participant not ready",
    HandlerFailed: "handler failed",
    HandlerPanicked: "handler panicked",
    LocalLost: "local transaction lost with its connection",
    LocalUnknown: "local commit of unknown result",
    WrongBatch: "answer to a batch that is not there",
    TooFewAnswers: "too few answers",
    TooManyAnswers: "too many answers",
    EmptyAnswer: "answer without content",
    GarbageBytes: "answer of random bytes",
    GarbageMessage: "message out of turn",
    RequestLost: "request lost",
    ResponseLost: "response lost",
    InitiatorFrozen: "initiator frozen",
    RolledBackBeside: "rolled back by another worker of its initiator",
}
