//! The life of a template: which change is possible when, and where it leads.
//!
//! Draft → gray → published → paused → ended. A version is written as the *candidate*, tried by an audience while the
//! template is gray, and then becomes the *live* one; a published template gets its next version the same way, with the
//! rest of the users on the live one meanwhile.

use tercet_rules::{Code, Fault};

/// Where a template stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nobody has it.
    Draft = 1,
    /// An audience has the candidate, and the rest has the live version, if there is one.
    Gray = 2,
    /// Everyone has the live version.
    Published = 3,
    /// Nobody can claim it for now; then it is what it was before.
    Paused = 4,
    /// Nobody can claim it any more.
    Ended = 5,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Draft, Self::Gray, Self::Published, Self::Paused, Self::Ended];

    /// In texts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Gray => "gray",
            Self::Published => "published",
            Self::Paused => "paused",
            Self::Ended => "ended",
        }
    }
}

/// Status and versions of a template. A version is 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub status: Status,
    /// The version that everyone has.
    pub live: u32,
    /// The version that is written or tried.
    pub candidate: u32,
    /// The version that was made last.
    pub newest: u32,
    /// The version that was live before.
    pub previous: u32,
    /// The candidate is tried: of one that is paused, it will be again.
    pub is_tried: bool,
}

/// What an operator does to a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Writes the candidate.
    SetRules,
    /// Gives the candidate to an audience, or to another one.
    StartGray,
    /// Gives this version to everyone.
    Promote(u32),
    /// Takes this version from everyone.
    RollBack(u32),
    /// Stops claims for a while.
    Pause,
    /// Lets claims go on.
    Resume,
    /// Stops claims for ever.
    End,
}

impl Action {
    /// In texts and in the business log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SetRules => "set_rules",
            Self::StartGray => "start_gray",
            Self::Promote(_) => "promote",
            Self::RollBack(_) => "roll_back",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::End => "end",
        }
    }
}

impl Standing {
    /// Of a template with its first version.
    pub const FIRST: Self =
        Self { status: Status::Draft, live: 0, candidate: 1, newest: 1, previous: 0, is_tried: false };

    /// The version that is tried, or will be again.
    pub fn tried(self) -> Option<u32> {
        self.is_tried.then_some(self.candidate)
    }

    /// Where the action leads; the same when it was done already, which only [`Action::Promote`] and
    /// [`Action::RollBack`] can tell.
    ///
    /// # Errors
    /// [`Code::NotAllowed`] when the status forbids it, [`Code::WrongVersion`] when there is no such version to do it
    /// with.
    pub fn after(self, action: Action) -> Result<Self, Fault> {
        use Status::{Draft, Ended, Gray, Paused, Published};
        let to = |status| Ok(Self { status, ..self });
        match (self.status, action) {
            (Draft | Published | Paused, Action::SetRules) if !self.is_tried => Ok(self.with_candidate()),
            (Draft | Published, Action::StartGray) if self.candidate == 0 => Err(wrong(action, 0)),
            (Draft | Published | Gray, Action::StartGray) => Ok(Self { status: Gray, is_tried: true, ..self }),
            (Gray | Published | Paused, Action::Promote(version)) => self.promoted(version),
            (Draft | Gray | Published | Paused, Action::RollBack(version)) => self.rolled_back(version),
            (Gray | Published, Action::Pause) => to(Paused),
            (Paused, Action::Resume) => to(if self.is_tried { Gray } else { Published }),
            (Draft | Gray | Published | Paused, Action::End) => Ok(Self { status: Ended, is_tried: false, ..self }),
            (Draft, Action::Promote(_))
            | (Draft | Gray | Published | Paused, Action::SetRules)
            | (Paused, Action::StartGray)
            | (Draft | Paused, Action::Pause)
            | (Draft | Gray | Published, Action::Resume)
            | (
                Ended,
                Action::SetRules
                | Action::StartGray
                | Action::Promote(_)
                | Action::RollBack(_)
                | Action::Pause
                | Action::Resume
                | Action::End,
            ) => {
                let status = ("status", self.status.name().to_owned());
                Err(Code::NotAllowed.fault([status, ("action", action.name().to_owned())]))
            }
        }
    }

    /// Only a draft version is written again: one that users have had stays as it is.
    const fn with_candidate(self) -> Self {
        if self.candidate > 0 {
            return self;
        }
        let next = self.newest + 1;
        Self { candidate: next, newest: next, ..self }
    }

    fn promoted(self, version: u32) -> Result<Self, Fault> {
        if version == self.live && version > 0 {
            return Ok(self);
        }
        if self.status != Status::Gray || version != self.candidate {
            return Err(wrong(Action::Promote(version), version));
        }
        let (status, previous) = (Status::Published, self.live);
        Ok(Self { status, live: version, candidate: 0, previous, is_tried: false, ..self })
    }

    fn rolled_back(self, version: u32) -> Result<Self, Fault> {
        if !(1..=self.newest).contains(&version) {
            return Err(wrong(Action::RollBack(version), version));
        }
        if self.tried() == Some(version) {
            let status = match self.status {
                _ if self.live == 0 => Status::Draft,
                Status::Paused => Status::Paused,
                Status::Draft | Status::Gray | Status::Published | Status::Ended => Status::Published,
            };
            return Ok(Self { status, candidate: 0, is_tried: false, ..self });
        }
        if version != self.live {
            return Ok(self);
        }
        // Nobody is left without a version, and what is tried has been compared with this one.
        if self.previous == 0 || self.is_tried {
            return Err(wrong(Action::RollBack(version), version));
        }
        Ok(Self { live: self.previous, previous: 0, ..self })
    }
}

fn wrong(action: Action, version: u32) -> Fault {
    Code::WrongVersion.fault([("version", version.to_string()), ("action", action.name().to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 7] = [
        Action::SetRules,
        Action::StartGray,
        Action::Promote(3),
        Action::RollBack(3),
        Action::Pause,
        Action::Resume,
        Action::End,
    ];

    /// A template of this status that had versions 1 and 2; version 3 is written or tried.
    fn at(status: Status) -> Standing {
        let live = if status == Status::Draft { 0 } else { 2 };
        let is_tried = status == Status::Gray;
        Standing { status, live, candidate: 3, newest: 3, previous: live / 2, is_tried }
    }

    /// Every pair of a status and an action: the status after it, `=` for a repeat, `-` for not allowed, `v` for a
    /// wrong version.
    #[test]
    fn every_pair_of_status_and_action_is_decided() {
        let table = [
            // set, gray, promote, roll back, pause, resume, end
            (Status::Draft, ["draft", "gray", "-", "=", "-", "-", "ended"]),
            (Status::Gray, ["-", "gray", "published", "published", "paused", "-", "ended"]),
            (Status::Published, ["published", "gray", "v", "=", "paused", "-", "ended"]),
            (Status::Paused, ["paused", "-", "v", "=", "-", "published", "ended"]),
            (Status::Ended, ["-", "-", "-", "-", "-", "-", "-"]),
        ];
        assert_eq!(table.map(|(status, _)| status), Status::ALL);
        let paused = Standing { status: Status::Paused, ..at(Status::Gray) };
        let while_tried = (paused, ["-", "-", "v", "paused", "-", "gray", "ended"]);
        for (before, wants) in table.map(|(status, wants)| (at(status), wants)).into_iter().chain([while_tried]) {
            for (action, want) in ACTIONS.into_iter().zip(wants) {
                let found = match before.after(action) {
                    Ok(after) if after == before && matches!(action, Action::Promote(_) | Action::RollBack(_)) => "=",
                    Ok(after) => after.status.name(),
                    Err(fault) if fault.code == Code::NotAllowed => "-",
                    Err(fault) if fault.code == Code::WrongVersion => "v",
                    Err(fault) => panic!("{fault}"),
                };
                assert_eq!(found, want, "{before:?} {action:?}");
            }
        }
    }

    fn run(actions: &[Action]) -> Standing {
        actions.iter().fold(Standing::FIRST, |standing, action| standing.after(*action).expect("allowed"))
    }

    #[test]
    fn a_new_version_goes_live_and_back_and_its_repeats_change_nothing() {
        use Action::{Promote, RollBack, SetRules, StartGray};
        let published = run(&[StartGray, Promote(1)]);
        assert_eq!((published.status, published.live, published.candidate), (Status::Published, 1, 0));
        assert_eq!(published.after(Promote(1)), Ok(published));
        assert_eq!(published.after(RollBack(1)).map_err(|fault| fault.code), Err(Code::WrongVersion));

        let gray = run(&[StartGray, Promote(1), SetRules, SetRules, StartGray]);
        assert_eq!((gray.status, gray.live, gray.candidate, gray.newest), (Status::Gray, 1, 2, 2));
        assert_eq!(gray.after(RollBack(1)).map_err(|fault| fault.code), Err(Code::WrongVersion));
        let dropped = gray.after(RollBack(2)).expect("it is tried");
        assert_eq!((dropped.status, dropped.live, dropped.candidate), (Status::Published, 1, 0));
        assert_eq!(dropped.after(RollBack(2)), Ok(dropped));
        assert_eq!(dropped.after(SetRules).expect("published").candidate, 3, "a version is never written again");

        let second = gray.after(Promote(2)).expect("it is tried");
        assert_eq!((second.live, second.previous), (2, 1));
        let back = second.after(RollBack(2)).expect("there is one before");
        assert_eq!((back.live, back.previous, back.status), (1, 0, Status::Published));
        assert_eq!(back.after(RollBack(2)), Ok(back));
    }

    #[test]
    fn a_first_version_that_is_rolled_back_leaves_a_draft_without_a_version() {
        let draft = run(&[Action::StartGray, Action::RollBack(1)]);
        assert_eq!(draft, Standing { candidate: 0, ..Standing::FIRST });
        assert_eq!(draft.after(Action::StartGray).map_err(|fault| fault.code), Err(Code::WrongVersion));
        assert_eq!(draft.after(Action::SetRules).expect("a draft").candidate, 2);
    }

    #[test]
    fn what_is_paused_while_a_version_is_tried_goes_on_as_it_was() {
        use Action::{Pause, Promote, Resume, RollBack, SetRules, StartGray};
        for before in [run(&[StartGray]), run(&[StartGray, Promote(1), SetRules, StartGray])] {
            let paused = before.after(Pause).expect("it is tried");
            assert_eq!((paused.status, paused.tried()), (Status::Paused, before.tried()));
            assert_eq!(paused.after(Resume), Ok(before));
        }
        // The version that is tried may be dropped meanwhile.
        let dropped = run(&[StartGray, Promote(1), SetRules, StartGray, Pause, RollBack(2)]);
        assert_eq!((dropped.status, dropped.tried(), dropped.live), (Status::Paused, None, 1));
        assert_eq!(dropped.after(Resume).map(|after| after.status), Ok(Status::Published));
        assert_eq!(run(&[StartGray, Pause, RollBack(1)]).status, Status::Draft, "nobody would have a version");
    }

    /// From the first version, by every action in every order, ten deep.
    #[test]
    fn every_reachable_standing_is_sound() {
        let mut seen = vec![Standing::FIRST];
        let mut at = 0;
        while at < seen.len() {
            let standing = seen[at];
            at += 1;
            let versions = (0..=standing.newest + 1).flat_map(|v| [Action::Promote(v), Action::RollBack(v)]);
            for action in ACTIONS.into_iter().chain(versions) {
                let Ok(after) = standing.after(action) else { continue };
                let sound = match after.status {
                    Status::Draft => after.live == 0,
                    Status::Gray => after.is_tried,
                    Status::Published => after.live > 0,
                    Status::Paused => after.live > 0 || after.is_tried,
                    Status::Ended => true,
                };
                let may_be_tried = matches!(after.status, Status::Gray | Status::Paused)
                    && after.candidate > 0
                    && after.candidate != after.live;
                let sound = sound && (may_be_tried || !after.is_tried);
                let known = [after.live, after.candidate, after.previous].iter().all(|v| *v <= after.newest);
                assert!(sound && known && after.newest >= standing.newest, "{standing:?} {action:?} {after:?}");
                if after.newest <= 5 && !seen.contains(&after) {
                    seen.push(after);
                }
            }
        }
        assert!(seen.len() > 50, "{}", seen.len());
    }
}
