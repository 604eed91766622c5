//! One vCPU's part: what was made, and what the code did.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use iced_x86::{Code, Formatter, GasFormatter, Instruction, OpKind};
use interp::core::Mode;

use super::Reports;
use super::listing::Listing;
use super::names::{self, Names};
use crate::runtime::stubs::Stubs;

/// Width of the guest's instructions beside the host's.
const COLUMN: usize = 40;

/// See the module.
pub struct Tracer {
    reports: Arc<Reports>,
    vcpu: u32,
    names: Option<Arc<Names>>,
    /// Translations made, those of them that are there, and how often all were dropped.
    made: u64,
    present: u64,
    emptied: u64,
    /// Executions of operations that were dropped.
    operations: HashMap<Code, u64>,
    /// Something was told since the last flush.
    told: bool,
}

/// Where a block's instructions have their code.
#[derive(Default)]
pub struct Marks {
    /// Lengths of the parts before each instruction.
    starts: Vec<[usize; 2]>,
    left: Vec<Code>,
}

impl Marks {
    /// An instruction begins here.
    pub fn begin(&mut self, lengths: [usize; 2]) {
        self.starts.push(lengths);
    }

    /// An instruction is the interpreter's.
    pub fn left(&mut self, code: Code) {
        self.left.push(code);
    }
}

/// A piece of the guest's code.
#[derive(Clone, Copy)]
pub struct Place {
    pub mode: Mode,
    /// Linear and guest-physical address.
    pub lin: u64,
    pub phys: u64,
}

/// A translation that was made.
pub struct Translation<'a> {
    pub place: Place,
    /// It relies on the stack's window.
    pub windows: bool,
    pub insns: &'a [Instruction],
    pub marks: Marks,
    /// Hot and cold part, and where they are executed.
    pub code: [&'a [u8]; 2],
    pub bases: [u64; 2],
}

impl Tracer {
    pub(super) fn new(reports: Arc<Reports>, vcpu: u32) -> Self {
        let operations = HashMap::new();
        Self { reports, vcpu, names: None, made: 0, present: 0, emptied: 0, operations, told: false }
    }

    /// Profilers are to find names for code.
    pub fn names_code(&self) -> bool {
        self.reports.names_code()
    }

    /// The vCPU's stubs are there, from `start` on; its data are at `data`.
    pub fn stubs(&mut self, stubs: &Stubs, start: u64, data: u64) {
        self.names = Some(Arc::new(Names::new(stubs, data)));
        let Some(map) = &self.reports.map else { return };
        let mut map = map.lock();
        let mut names = names::stubs(stubs);
        names.insert(0, (start, "exit".to_owned()));
        let ends = names.iter().skip(1).map(|&(at, _)| at).chain([start + stubs.len as u64]);
        for ((at, name), end) in names.iter().zip(ends) {
            map.add(*at, end.saturating_sub(*at) as usize, format_args!("stub:{name}"));
        }
        self.told = true;
    }

    /// A translation was made.
    pub fn made(&mut self, t: &Translation) {
        (self.made, self.present, self.told) = (self.made + 1, self.present + 1, true);
        if let Some(map) = &self.reports.map {
            let mut map = map.lock();
            map.add(t.bases[0], t.code[0].len(), t.place);
            map.add(t.bases[1], t.code[1].len(), format_args!("{}:cold", t.place));
        }
        if let Some(trace) = &self.reports.trace {
            let mut text = self.line(t);
            if self.reports.code {
                self.listing(t, &mut text);
            }
            trace.lock().write(&text);
        }
    }

    /// Code that belongs to translations was made: `what` it is, and the place that it leads to.
    pub fn joint(&mut self, what: &str, place: Place, code: [&[u8]; 2], bases: [u64; 2]) {
        if let Some(map) = &self.reports.map {
            map.lock().add(bases[0], code[0].len(), format_args!("{what}:{place}"));
            self.told = true;
        }
    }

    /// All translations were dropped; their code began in `code`.
    pub fn dropped(&mut self, code: &Range<u64>, operations: impl Iterator<Item = (Code, u64)>) {
        if let Some(map) = &self.reports.map {
            map.lock().forget(code);
        }
        if let Some(trace) = &self.reports.trace {
            trace.lock().write(&format!("vcpu{} dropped translations={}\n", self.vcpu, self.present));
        }
        operations.for_each(|(code, count)| *self.operations.entry(code).or_default() += count);
        (self.present, self.emptied, self.told) = (0, self.emptied + 1, true);
    }

    /// Executions of operations that were dropped.
    pub fn operations(&self) -> &HashMap<Code, u64> {
        &self.operations
    }

    /// The vCPU has nothing to do.
    pub fn idle(&mut self) {
        if std::mem::take(&mut self.told) {
            self.reports.flush();
        }
    }

    /// The last of it: `exits` by reason, and the operations executed most often.
    pub fn finish(self, exits: &impl fmt::Debug, operations: &[(Code, u64)]) {
        if let Some(trace) = &self.reports.trace {
            let (vcpu, made, emptied) = (self.vcpu, self.made, self.emptied);
            let dropped = made - self.present;
            // "Name { a: 1, b: 2 }"
            let exits = format!("{exits:?}");
            let exits = exits.split_once('{').map_or(&*exits, |(_, fields)| fields.trim_end_matches('}'));
            let exits = exits.trim().replace(": ", "=").replace(',', "");
            let operations: Vec<_> = operations.iter().map(|(code, n)| format!("{code:?}={n}")).collect();
            trace.lock().write(&format!(
                "vcpu{vcpu} end made={made} dropped={dropped} emptied={emptied}\n\
                 vcpu{vcpu} exits {exits}\n\
                 vcpu{vcpu} interpreted {}\n",
                operations.join(" ")
            ));
        }
        self.reports.flush();
    }

    fn line(&self, t: &Translation) -> String {
        let Place { mode, lin, phys } = t.place;
        let [hot, cold] = t.code.map(<[u8]>::len);
        let bytes: usize = t.insns.iter().map(Instruction::len).sum();
        let (vcpu, mode, insns) = (self.vcpu, mode_name(mode), t.insns.len());
        let mut text = format!(
            "vcpu{vcpu} mode={mode} lin={lin:x} phys={phys:x} bytes={bytes} insns={insns} hot={hot} cold={cold}"
        );
        if !t.windows {
            text.push_str(" window=no");
        }
        for (i, code) in t.marks.left.iter().enumerate() {
            let _ = write!(text, "{}{code:?}", if i == 0 { " left=" } else { "," });
        }
        text.push('\n');
        text
    }

    fn listing(&self, t: &Translation, text: &mut String) {
        let Some(names) = &self.names else { return };
        let parts = [0, 1].map(|part| t.bases[part]..t.bases[part] + t.code[part].len() as u64);
        let mut host = Listing::new(names, parts);
        let mut guest = GasFormatter::new();
        // Code before the first instruction checks what that relies on.
        let first = t.marks.starts.first().copied().unwrap_or_default();
        let before = std::iter::once(([0, 0], first, None));
        let ends = t.marks.starts.iter().skip(1).copied().chain([t.code.map(<[u8]>::len)]);
        let page = t.place.lin & !0xfff;
        let each = t.marks.starts.iter().zip(ends).zip(t.insns);
        let each = each.map(|((&start, end), insn)| (start, end, Some(insn)));
        for (start, end, insn) in before.chain(each) {
            let mut left = String::new();
            if let Some(insn) = insn {
                let mut insn = *insn;
                // Blocks are decoded as seen from their page.
                let _ = write!(left, "{:3x}  ", insn.ip() & 0xfff);
                insn.set_ip(page.wrapping_add(insn.ip()));
                if insn.op0_kind() == OpKind::NearBranch64 {
                    insn.set_near_branch64(page.wrapping_add(insn.near_branch64()));
                }
                if insn.is_ip_rel_memory_operand() {
                    insn.set_memory_displacement64(page.wrapping_add(insn.memory_displacement64()));
                }
                guest.format(&insn, &mut left);
            }
            for (part, tag) in ["    ", "cold"].into_iter().enumerate() {
                let Some(code) = t.code[part].get(start[part]..end[part]) else { continue };
                host.lines(code, t.bases[part] + start[part] as u64, |at, right| {
                    let left = std::mem::take(&mut left);
                    let _ = writeln!(text, "  {left:COLUMN$} {tag} {:3x}  {right}", at - t.bases[part]);
                });
            }
            if !left.is_empty() {
                let _ = writeln!(text, "  {left}");
            }
        }
    }
}

/// As profilers show it, without blanks and semicolons.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:x}@{:x}", mode_name(self.mode), self.lin, self.phys)
    }
}

fn mode_name(mode: Mode) -> String {
    let mut name = if mode.user { "user" } else { "kernel" }.to_owned();
    let differs = [
        (mode.code32.is_some(), "32"),
        (mode.code32.is_some_and(|c| c.fs), "+fs"),
        (mode.code32.is_some_and(|c| c.gs), "+gs"),
        (mode.user_pages && !mode.user, "+ac"),
        (!mode.sse, "-sse"),
        (!mode.avx, "-avx"),
        (!mode.bases, "-bases"),
        (!mode.x87, "-x87"),
        (!mode.smap, "-smap"),
        (!mode.tsc, "-tsc"),
    ];
    differs.iter().filter(|d| d.0).for_each(|d| name.push_str(d.1));
    name
}
