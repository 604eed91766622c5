use crate::decode::Lowering;
pub(crate) fn lower(_: &mut Lowering) -> bool {
    false
}
