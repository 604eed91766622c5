//! When a machine that has failed is started again.

use std::str::FromStr;
use std::time::Duration;

/// The pause before the first start of a row.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// A machine that has run for so long begins a new row.
const STABLE: Duration = Duration::from_secs(10);

/// Whether.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// After any exit status but 0, at most so many times.
    OnFailure(u32),
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} does not say when: give no, on-failure or on-failure:N");
        match text.split_once(':') {
            None if text == "no" => Ok(Self::No),
            None if text == "on-failure" => Ok(Self::OnFailure(u32::MAX)),
            Some(("on-failure", most)) => most.parse().map(Self::OnFailure).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// The row of starts that a machine is in.
#[derive(Debug, Default)]
pub struct Restarts {
    count: u32,
    pause: Duration,
}

impl Restarts {
    /// How long to wait before the next start, if there is to be one after a run of this length and status.
    pub fn next(&mut self, policy: RestartPolicy, status: u8, ran: Duration) -> Option<Duration> {
        let RestartPolicy::OnFailure(most) = policy else { return None };
        if status == 0 || self.count >= most {
            return None;
        }
        self.count = self.count.saturating_add(1);
        self.pause = if ran >= STABLE { FIRST } else { (self.pause * 2).clamp(FIRST, LONGEST) };
        Some(self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_one_of_three() {
        assert_eq!("no".parse(), Ok(RestartPolicy::No));
        assert_eq!("on-failure".parse(), Ok(RestartPolicy::OnFailure(u32::MAX)));
        assert_eq!("on-failure:3".parse(), Ok(RestartPolicy::OnFailure(3)));
        for wrong in ["", "always", "on-failure:", "on-failure:-1", "no:3"] {
            assert!(wrong.parse::<RestartPolicy>().unwrap_err().contains(&format!("{wrong:?}")));
        }
    }

    #[test]
    fn pauses_grow_until_the_machine_is_stable() {
        let (mut restarts, policy) = (Restarts::default(), RestartPolicy::OnFailure(20));
        let moment = Duration::from_secs(1);
        let pauses: Vec<_> = (0..3).map(|_| restarts.next(policy, 3, moment).unwrap().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400]);
        assert_eq!(restarts.next(policy, 3, STABLE), Some(FIRST));
        let last = (0..16).filter_map(|_| restarts.next(policy, 3, moment)).last();
        assert_eq!(last, Some(LONGEST));
        assert_eq!(restarts.next(policy, 3, moment), None, "there were twenty");
        assert_eq!(Restarts::default().next(policy, 0, moment), None);
        assert_eq!(Restarts::default().next(RestartPolicy::No, 3, moment), None);
    }
}
