//! The engines there are, and which one a machine gets.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use cpu::{Capabilities, Engine, EngineError};
use serde::{Deserialize, Serialize};

use crate::MachineError;

/// Which engine is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The best that this host can run.
    #[default]
    Auto,
    /// Hardware virtualization.
    Kvm,
    /// The binary translator.
    Dbt,
    /// The interpreter.
    Interp,
}

impl EngineKind {
    /// All of them, for help texts.
    pub const NAMES: [&'static str; 4] = ["auto", "kvm", "dbt", "interp"];
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Dbt => "dbt",
            Self::Interp => "interp",
        })
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Auto, Self::Kvm, Self::Dbt, Self::Interp]
            .into_iter()
            .find(|k| k.to_string() == name)
            .ok_or_else(|| format!("no engine {name:?}: take one of {}", Self::NAMES.join(", ")))
    }
}

/// Every engine of this build, best first.
pub fn all() -> Vec<Arc<dyn Engine>> {
    let dbt: Arc<dyn Engine> = Arc::new(dbt::Dbt::new());
    let interp: Arc<dyn Engine> = Arc::new(interp::Interp::new());
    let helpers = kvm::Helpers { step: interp.clone(), stretch: dbt.clone() };
    vec![Arc::new(kvm::Kvm::new(helpers)), dbt, interp]
}

/// How fast an engine that can be used is here: measured now, in some ten milliseconds.
pub fn speed(engine: &dyn Engine) -> Option<kvm::Speed> {
    kvm::Speed::measure(engine, true).ok()
}

/// An engine that was picked, and why.
#[derive(Clone)]
pub struct Choice {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What it can do here.
    pub capabilities: Capabilities,
    /// The reason, one line.
    pub reason: String,
    /// What the user should know of a better one that works and was not taken.
    pub notice: Option<String>,
}

/// Picks an engine.
///
/// # Errors
/// The one asked for, or every one, cannot be used on this host.
pub fn choose(kind: EngineKind) -> Result<Choice, MachineError> {
    pick(all(), kind)
}

fn pick(engines: Vec<Arc<dyn Engine>>, kind: EngineKind) -> Result<Choice, MachineError> {
    let wanted = kind.to_string();
    let (mut passed_over, mut slow) = (Vec::new(), Vec::new());
    for engine in engines {
        if kind != EngineKind::Auto && engine.name() != wanted {
            continue;
        }
        let (name, capabilities) = (engine.name(), engine.capabilities());
        if let Some(why) = &capabilities.unusable {
            passed_over.push(format!("{name} cannot run here: {why}"));
            continue;
        }
        if kind != EngineKind::Auto {
            return Ok(Choice { engine, capabilities, reason: "asked for".to_owned(), notice: None });
        }
        if let Some(why) = engine.drawback() {
            slow.push(format!("{name} is here but {why}"));
            continue;
        }
        let notice = (!slow.is_empty()).then(|| format!("{}; using {name}", slow.join("; ")));
        passed_over.append(&mut slow);
        let reason = if passed_over.is_empty() {
            "the best engine of this build".to_owned()
        } else {
            format!("the best that this host can run ({})", passed_over.join("; "))
        };
        return Ok(Choice { engine, capabilities, reason, notice });
    }
    // Such a one rarely brings a system to its end: whoever wants it says so.
    passed_over.extend(slow.into_iter().map(|why| format!("{why}, which only --engine takes")));
    let reason =
        if passed_over.is_empty() { "it is not in this build".to_owned() } else { passed_over.join("; ") };
    let engine = EngineKind::NAMES.into_iter().find(|n| *n == wanted).unwrap_or("auto");
    Err(EngineError::Unusable { engine, reason }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu::{Vm, VmConfig};

    /// Name, why it cannot run, what speaks against it.
    struct Named(&'static str, Option<&'static str>, Option<&'static str>);

    impl Engine for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities {
                unusable: self.1.map(str::to_owned),
                max_vcpus: 1,
                full_virtualization: true,
                exact_limit: false,
            }
        }
        fn drawback(&self) -> Option<String> {
            self.2.map(str::to_owned)
        }
        fn create_vm(&self, _: VmConfig) -> Result<Box<dyn Vm>, EngineError> {
            Err(EngineError::BadState(String::new()))
        }
    }

    fn list(fast: Option<&'static str>, slow: Option<&'static str>) -> Vec<Arc<dyn Engine>> {
        vec![Arc::new(Named("kvm", fast, None)), Arc::new(Named("interp", slow, None))]
    }

    #[test]
    fn auto_takes_the_first_that_runs_and_says_why() {
        let choice = pick(list(None, None), EngineKind::Auto).unwrap();
        assert_eq!((choice.engine.name(), choice.reason.as_str()), ("kvm", "the best engine of this build"));
        let choice = pick(list(Some("no /dev/kvm"), None), EngineKind::Auto).unwrap();
        assert_eq!(choice.engine.name(), "interp");
        assert_eq!(choice.reason, "the best that this host can run (kvm cannot run here: no /dev/kvm)");
    }

    #[test]
    fn auto_passes_over_what_is_slow_and_tells() {
        let slow = || Named("kvm", None, Some("its ring 0 runs 2 M insn/s"));
        let choice =
            pick(vec![Arc::new(slow()), Arc::new(Named("dbt", None, None))], EngineKind::Auto).unwrap();
        assert_eq!(choice.engine.name(), "dbt");
        let notice = "kvm is here but its ring 0 runs 2 M insn/s; using dbt";
        assert_eq!(choice.notice.as_deref(), Some(notice));
        let broken = Named("dbt", Some("no BMI2"), None);
        let alone =
            pick(vec![Arc::new(slow()), Arc::new(broken)], EngineKind::Auto).err().unwrap().to_string();
        assert!(
            alone.contains("dbt cannot run here: no BMI2; kvm is here but its ring 0 runs 2 M insn/s"),
            "{alone}"
        );
        let asked = pick(vec![Arc::new(slow())], EngineKind::Kvm).unwrap();
        assert_eq!((asked.engine.name(), asked.notice), ("kvm", None));
    }

    #[test]
    fn an_engine_asked_for_is_taken_or_refused() {
        assert_eq!(pick(list(None, None), EngineKind::Interp).unwrap().engine.name(), "interp");
        let error = pick(list(None, Some("broken")), EngineKind::Interp).err().unwrap().to_string();
        assert_eq!(error, "engine interp cannot run here: interp cannot run here: broken");
        assert!(pick(Vec::new(), EngineKind::Auto).is_err());
    }

    #[test]
    fn this_build_has_an_engine_that_runs_everywhere() {
        assert_eq!(choose(EngineKind::Auto).unwrap().capabilities.unusable, None);
    }
}
