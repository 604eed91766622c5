//! CPU models: what CPUID says. A named model is the same on every host that can run it, so that a guest can
//! move; `host` is everything that Guesthouse knows and this host has.

mod cpuid;
mod features;

use std::sync::Arc;

use iced_x86::Code;
use thiserror::Error;

pub use cpuid::{APIC_TIMER_HZ, CpuidEnv, CpuidResult, PHYS_BITS};
pub use features::Feature;

/// A CPU model. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CpuModel {
    name: &'static str,
    features: Feature,
    /// One bit per instruction code: the instruction exists.
    allowed: Arc<[u64]>,
}

/// A model that cannot be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ModelError {
    /// No such name.
    #[error("no cpu model {0:?}: the models are {1}")]
    Unknown(String, String),
    /// The host CPU lacks features the model promises.
    #[error("cpu model {model} needs {missing} of the host cpu: take a smaller model")]
    HostLacks {
        /// Model name.
        model: &'static str,
        /// Features that are missing.
        missing: String,
    },
}

/// Largest first: the order in which the default is looked for.
const NAMED: [(&str, Feature); 4] = [
    ("x86-64-v3-sha", Feature::V3_SHA),
    ("x86-64-v3", Feature::V3),
    ("x86-64-v2", Feature::V2),
    ("x86-64-v1", Feature::empty()),
];

const HOST: &str = "host";
/// Leaves and subleaves of CPUID with bits for features.
const FEATURE_LEAVES: [(u32, u32); 4] = [(1, 0), (7, 0), (0x8000_0001, 0), (0xd, 1)];

impl CpuModel {
    /// The model of that name, or without a name the largest named one that this host has.
    ///
    /// # Errors
    /// The name is unknown, or the host CPU lacks features of the model.
    pub fn named(name: Option<&str>) -> Result<Self, ModelError> {
        let Some(name) = name else { return Ok(Self::best_for_host()) };
        if name == HOST {
            return Ok(Self::new(HOST, Feature::of_host()));
        }
        let Some(&(model, features)) = NAMED.iter().find(|(known, _)| *known == name) else {
            return Err(ModelError::Unknown(name.to_owned(), Self::names().join(", ")));
        };
        let missing = features - Feature::of_host();
        if !missing.is_empty() {
            let missing = missing.iter_names().map(|(n, _)| n.to_lowercase()).collect::<Vec<_>>();
            return Err(ModelError::HostLacks { model, missing: missing.join(", ") });
        }
        Ok(Self::new(model, features))
    }

    /// The model of that name as a machine had it that was made elsewhere: with these features, by
    /// [`feature_names`](Self::feature_names).
    ///
    /// # Errors
    /// A name is unknown, or the host CPU lacks features.
    pub fn restored(name: &str, features: &[String]) -> Result<Self, ModelError> {
        let known = Self::names().into_iter().find(|known| *known == name);
        let model = known.ok_or_else(|| ModelError::Unknown(name.to_owned(), Self::names().join(", ")))?;
        let host = Feature::of_host();
        let (mut wanted, mut missing) = (Feature::empty(), Vec::new());
        for name in features {
            match Feature::from_name(&name.to_uppercase()) {
                Some(feature) if host.contains(feature) => wanted |= feature,
                _ => missing.push(name.clone()),
            }
        }
        if !missing.is_empty() {
            return Err(ModelError::HostLacks { model, missing: missing.join(", ") });
        }
        Ok(Self::new(model, wanted))
    }

    /// The optional features it has, by name.
    pub fn feature_names(&self) -> Vec<String> {
        self.features.names()
    }

    /// Its features of which CPUID has bits that are not in `given`, which says what a guest can be given of a leaf and a subleaf.
    pub fn lacking(&self, given: impl Fn(u32, u32) -> CpuidResult) -> Feature {
        let env = CpuidEnv { apic_id: 0, vcpus: 1, apic: true, osxsave: false, xcr0: 0, tsc_hz: 0 };
        let lacks = |feature: &Feature, (leaf, subleaf): (u32, u32)| {
            // Only CPUID is asked, so that the instructions need not be looked up.
            let without = Self { features: self.features - *feature, ..self.clone() };
            let registers = |r: CpuidResult| [r.eax, r.ebx, r.ecx, r.edx];
            let [with, without, given] =
                [self.cpuid(leaf, subleaf, &env), without.cpuid(leaf, subleaf, &env), given(leaf, subleaf)]
                    .map(registers);
            (0..4)
                .map(|i| (with[i] & !without[i], given[i]))
                .fold((false, false), |(own, lacks), (bits, given)| {
                    (own || bits != 0, lacks || bits & !given != 0)
                })
        };
        let lacks = |feature: &Feature| {
            // Leaf 0xd has the parts of XSAVE, and nothing without it.
            let places = FEATURE_LEAVES.map(|place| lacks(feature, place));
            places.into_iter().find(|(own, _)| *own).is_some_and(|(_, lacks)| lacks)
        };
        self.features.iter().filter(lacks).fold(Feature::empty(), |all, feature| all | feature)
    }

    /// All names, smallest model first.
    pub fn names() -> Vec<&'static str> {
        NAMED.iter().rev().map(|m| m.0).chain([HOST]).collect()
    }

    /// The largest named model that this host has.
    pub fn best_for_host() -> Self {
        let host = Feature::of_host();
        let (name, features) = NAMED.into_iter().find(|m| host.contains(m.1)).unwrap_or(NAMED[3]);
        Self::new(name, features)
    }

    fn new(name: &'static str, features: Feature) -> Self {
        Self { name, features, allowed: features::allowed_codes(features) }
    }

    /// The model's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The optional features it has.
    pub fn features(&self) -> Feature {
        self.features
    }

    /// True if the model has all of `features`.
    pub fn has(&self, features: Feature) -> bool {
        self.features.contains(features)
    }

    /// True if an instruction exists on the model; it raises #UD otherwise.
    #[inline]
    pub fn allows(&self, code: Code) -> bool {
        let index = code as usize;
        self.allowed.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 != 0)
    }

    /// True if 1 GiB pages exist.
    pub fn gigabyte_pages(&self) -> bool {
        true
    }

    /// Extended state components that XCR0 may enable.
    pub fn xcr0(&self) -> u64 {
        use super::xcr0::{AVX, SSE, X87};
        if self.has(Feature::AVX) { X87 | SSE | AVX } else { X87 | SSE }
    }

    /// IA32_ARCH_CAPABILITIES.
    pub fn arch_capabilities(&self) -> u64 {
        cpuid::ARCH_CAPABILITIES
    }

    /// What CPUID returns for EAX = `leaf` and ECX = `subleaf`.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, env: &CpuidEnv) -> CpuidResult {
        cpuid::cpuid(self, leaf, subleaf, env)
    }
}

#[cfg(test)]
mod tests;
