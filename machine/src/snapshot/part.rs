//! Parts as sections.

use device::SaveRestore;

use super::error::in_a_line;
use super::{Section, SnapshotError};

/// A part whose state is a section's content.
pub trait SavedPart: Send + Sync {
    /// What kind of part it is.
    fn section_kind(&self) -> &'static str;
    /// Its state.
    ///
    /// # Errors
    /// It has no text.
    fn to_section(&self, instance: u16) -> Result<Section, SnapshotError>;
    /// Replaces its state.
    ///
    /// # Errors
    /// No such part can have it.
    fn put_section(&self, section: &Section) -> Result<(), SnapshotError>;
}

impl<T: SaveRestore + Send + Sync> SavedPart for T {
    fn section_kind(&self) -> &'static str {
        T::KIND
    }

    fn to_section(&self, instance: u16) -> Result<Section, SnapshotError> {
        encode(T::KIND, instance, T::VERSION, &self.save())
    }

    fn put_section(&self, section: &Section) -> Result<(), SnapshotError> {
        Ok(self.restore(&decode(section, T::VERSION)?)?)
    }
}

/// A section of JSON.
pub fn encode(
    kind: &str,
    instance: u16,
    version: u32,
    state: &impl serde::Serialize,
) -> Result<Section, SnapshotError> {
    let data =
        serde_json::to_vec(state).map_err(|e| wrong(kind, instance, format!("without a text ({e})")))?;
    Ok(Section { kind: kind.to_owned(), instance, version, data })
}

/// What such a section says.
pub fn decode<T: serde::de::DeserializeOwned>(section: &Section, version: u32) -> Result<T, SnapshotError> {
    let Section { kind, instance, version: theirs, data } = section;
    if *theirs != version {
        let what = format!("of version {theirs}, and this program knows version {version}");
        return Err(wrong(kind, *instance, what));
    }
    serde_json::from_slice(data)
        .map_err(|e| wrong(kind, *instance, format!("with another content ({})", in_a_line(&e))))
}

pub fn wrong(kind: &str, instance: u16, what: String) -> SnapshotError {
    SnapshotError::Part { kind: kind.to_owned(), instance, what }
}
