use crate::Case;
pub(super) const CASES: &[Case] = &[];
