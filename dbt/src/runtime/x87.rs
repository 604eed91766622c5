//! The guest's x87 state while translated code uses it.

use interp::core::Session;

use super::context::Context;
use crate::translator::Translator;

/// Before translated code is entered.
#[inline]
pub fn load(context: &mut Context, s: &Session) {
    context.x87_away = u32::from(!s.x87_lent());
}

/// Translated code wants the state in the host's registers.
pub fn lend(context: &mut Context, s: &mut Session) {
    s.lend_x87();
    context.x87_away = 0;
}

/// Translated code was left: takes over the pointers of the instructions executed there. At once, since they are
/// relative to code pages as they are mapped now.
#[inline]
pub fn take_pointers(context: &mut Context, translator: &Translator, s: &mut Session) {
    if context.x87_note != 0 {
        note(context, translator, s);
    }
}

#[cold]
fn note(context: &mut Context, translator: &Translator, s: &mut Session) {
    let number = std::mem::take(&mut context.x87_note) as usize - 1;
    let segment = std::mem::take(&mut context.x87_segment);
    let Some(&(page, note)) = translator.notes.get(number) else { return };
    let ip = translator.pages.lin(page).wrapping_add(u64::from(note.offset));
    let operand = (segment != 0).then(|| (segment as usize - 1, context.x87_operand));
    s.note_x87(note.opcode, ip, operand);
}
