//! Segment registers in KVM's form.

use cpu::x86::{seg, seg_attr};
use cpu::{CpuState, DescriptorTable, Segment};
use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};

fn bit(attr: u32, mask: u32) -> u8 {
    u8::from(attr & mask != 0)
}

const AVL: u32 = 1 << 12;

fn to_kvm(s: &Segment) -> kvm_segment {
    let unusable = bit(s.attr, seg_attr::UNUSABLE);
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: (s.attr & seg_attr::TYPE) as u8,
        present: bit(s.attr, seg_attr::P) & !unusable,
        dpl: (s.attr >> seg_attr::DPL_SHIFT & 3) as u8,
        db: bit(s.attr, seg_attr::DB),
        s: bit(s.attr, seg_attr::S),
        l: bit(s.attr, seg_attr::L),
        g: bit(s.attr, seg_attr::G),
        avl: bit(s.attr, AVL),
        unusable,
        padding: 0,
    }
}

fn from_kvm(s: &kvm_segment) -> Segment {
    let flag = |set: u8, mask: u32| if set != 0 { mask } else { 0 };
    let attr = u32::from(s.type_) & seg_attr::TYPE
        | flag(s.s, seg_attr::S)
        | (u32::from(s.dpl) & 3) << seg_attr::DPL_SHIFT
        | flag(s.present, seg_attr::P)
        | flag(s.avl, AVL)
        | flag(s.l, seg_attr::L)
        | flag(s.db, seg_attr::DB)
        | flag(s.g, seg_attr::G)
        | flag(s.unusable, seg_attr::UNUSABLE);
    Segment { selector: s.selector, base: s.base, limit: s.limit, attr }
}

fn table(t: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}

/// Puts segments, descriptor tables and control registers into what KVM had.
pub fn store(state: &CpuState, sregs: &mut kvm_sregs) {
    let s = &state.segments;
    (sregs.es, sregs.cs) = (to_kvm(&s[seg::ES]), to_kvm(&s[seg::CS]));
    (sregs.ss, sregs.ds) = (to_kvm(&s[seg::SS]), to_kvm(&s[seg::DS]));
    (sregs.fs, sregs.gs) = (to_kvm(&s[seg::FS]), to_kvm(&s[seg::GS]));
    (sregs.ldt, sregs.tr) = (to_kvm(&state.ldtr), to_kvm(&state.tr));
    (sregs.gdt, sregs.idt) = (table(state.gdtr), table(state.idtr));
    (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
    sregs.efer = state.efer;
    sregs.interrupt_bitmap = [0; 4];
}

/// Takes them out again.
pub fn load(sregs: &kvm_sregs, state: &mut CpuState) {
    let order = [&sregs.es, &sregs.cs, &sregs.ss, &sregs.ds, &sregs.fs, &sregs.gs];
    state.segments = order.map(from_kvm);
    (state.ldtr, state.tr) = (from_kvm(&sregs.ldt), from_kvm(&sregs.tr));
    state.gdtr = DescriptorTable { base: sregs.gdt.base, limit: sregs.gdt.limit };
    state.idtr = DescriptorTable { base: sregs.idt.base, limit: sregs.idt.limit };
    (state.cr0, state.cr2, state.cr3, state.cr4) = (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4);
    state.efer = sregs.efer;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_there_and_back() {
        for attr in [0x9b, 0xc093, 0xa09b, 0xf3, 0x8b, 0x1_0000, 0x1_0073] {
            let segment = Segment { selector: 0x2b, base: 0x1_2345_6789, limit: 0xfffff, attr };
            assert_eq!(from_kvm(&to_kvm(&segment)), segment, "{attr:#x}");
        }
    }
}
