//! What is done to servers, drawn from a seed.

use std::time::Duration;

use tercet_coordinator::config::LEASE_MS;

use super::Dice;

/// Most freezes end within this.
const SHORT_MS: u64 = 3_000;
/// A session that is silent for five seconds is given up.
const SILENT_MS: u64 = 5_500;

/// What is done to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP, and SIGCONT after this.
    Freeze(Duration),
}

impl Act {
    /// How long a freeze lasts.
    pub(super) fn duration(self) -> Option<Duration> {
        match self {
            Self::Kill => None,
            Self::Freeze(duration) => Some(duration),
        }
    }
}

/// One act, every fifth time two at once. The first one's server is next in turn, the second one's is any other.
pub(super) fn draw(dice: &mut Dice, round: usize, servers: usize, freeze_percent: u64) -> Vec<(usize, Act)> {
    let first = round % servers;
    let mut acts = vec![(first, act(dice, freeze_percent))];
    if dice.percent(20) {
        let other = (first + 1 + (dice.roll() % (servers as u64 - 1)) as usize) % servers;
        acts.push((other, act(dice, freeze_percent)));
    }
    acts
}

fn act(dice: &mut Dice, freeze_percent: u64) -> Act {
    if !dice.percent(freeze_percent) {
        return Act::Kill;
    }
    let ms = match dice.roll() % 100 {
        // Past the lease: what was under way may be somebody else's by now.
        0..2 => LEASE_MS + 1_000,
        2..12 => SILENT_MS + dice.roll() % 1_000,
        _ => 200 + dice.roll() % (SHORT_MS - 200),
    };
    Act::Freeze(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_acts_and_every_kind_of_them() {
        let acts = |seed| {
            let mut dice = Dice(seed);
            (0..500).map(|round| draw(&mut dice, round, 7, 30)).collect::<Vec<_>>()
        };
        assert_eq!(acts(1), acts(1));
        assert_ne!(acts(1), acts(2));
        let all = acts(1);
        assert!(all.iter().enumerate().all(|(round, acts)| acts[0].0 == round % 7));
        assert!(all.iter().any(|acts| acts.len() == 2 && acts[0].0 != acts[1].0));
        assert!(all.iter().all(|acts| acts.len() < 2 || acts[0].0 != acts[1].0));
        let freezes: Vec<_> = all.iter().flatten().filter_map(|(_, act)| act.duration()).collect();
        assert!(freezes.len() > 100 && freezes.len() < 250);
        assert!(freezes.iter().any(|freeze| freeze.as_millis() > 15_000));
        assert!(freezes.iter().any(|freeze| (5_500..6_500).contains(&freeze.as_millis())));
    }
}
