//! A program of 32-bit code for a 64-bit kernel: an ELF executable of 32 bits, which computes, calls itself, copies and
//! asks the kernel by INT 80h.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Where it is loaded, with its headers.
const BASE: u32 = 0x0804_8000;
const HEADERS: u32 = 52 + 32;
/// Behind it: numbers, and a copy of them.
const NUMBERS: u32 = BASE + 0x1000;
const COUNT: u32 = 4096;
const COPY: u32 = NUMBERS + 4 * COUNT;
const END: u32 = COPY + 4 * COUNT;
const ROUNDS: u32 = 40;
const DEPTH: u32 = 16;

/// The file.
pub fn program() -> Vec<u8> {
    let code = code().unwrap();
    let size = HEADERS + code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |file: &mut Vec<u8>, all: &[u16]| all.iter().for_each(|n| file.extend(n.to_le_bytes()));
    let words = |file: &mut Vec<u8>, all: &[u32]| all.iter().for_each(|n| file.extend(n.to_le_bytes()));
    halves(&mut file, &[2, 3]); // executable, i386
    words(&mut file, &[1, BASE + HEADERS, 52, 0, 0]);
    halves(&mut file, &[52, 32, 1, 0, 0, 0]);
    // To be loaded, to be written and to be executed.
    words(&mut file, &[1, 0, BASE, BASE, size, END - BASE, 7, 0x1000]);
    file.extend(code);
    file
}

fn code() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(32)?;
    let [mut round, mut fill, mut add, mut digit, mut call, mut small] =
        std::array::from_fn(|_| a.create_label());
    a.xor(ebp, ebp)?;
    a.mov(ebx, ROUNDS)?;
    a.mov(eax, 1)?;
    a.set_label(&mut round)?;
    a.mov(edi, NUMBERS)?;
    a.mov(ecx, COUNT)?;
    a.set_label(&mut fill)?;
    a.imul_3(eax, eax, 69069)?;
    a.inc(eax)?;
    a.stosd()?;
    a.dec(ecx)?;
    a.jne(fill)?;
    a.mov(esi, NUMBERS)?;
    a.mov(edi, COPY)?;
    a.mov(ecx, COUNT)?;
    a.rep().movsd()?;
    a.mov(ecx, COUNT)?;
    a.set_label(&mut add)?;
    a.rol(ebp, 5)?;
    a.add(ebp, dword_ptr(ecx * 4 + COPY - 4))?;
    a.dec(ecx)?;
    a.jne(add)?;
    a.push(eax)?;
    a.mov(eax, DEPTH)?;
    a.call(call)?;
    a.add(ebp, eax)?;
    a.pop(eax)?;
    a.dec(ebx)?;
    a.jne(round)?;
    // Eight digits and the end of the line, on the stack.
    a.sub(esp, 12)?;
    a.mov(byte_ptr(esp + 8), 10)?;
    a.set_label(&mut digit)?;
    a.rol(ebp, 4)?;
    a.mov(eax, ebp)?;
    a.and(eax, 15)?;
    a.add(al, 'a' as u32)?;
    a.mov(byte_ptr(esp + ebx), al)?;
    a.inc(ebx)?;
    a.cmp(ebx, 8)?;
    a.jne(digit)?;
    a.mov(eax, 4)?; // write(1, esp, 9)
    a.mov(ebx, 1)?;
    a.mov(ecx, esp)?;
    a.mov(edx, 9)?;
    a.int(0x80)?;
    a.mov(eax, 1)?; // exit(0)
    a.xor(ebx, ebx)?;
    a.int(0x80)?;
    // Fibonacci's numbers.
    a.set_label(&mut call)?;
    a.cmp(eax, 2)?;
    a.jb(small)?;
    a.push(eax)?;
    a.dec(eax)?;
    a.call(call)?;
    a.xchg(dword_ptr(esp), eax)?;
    a.sub(eax, 2)?;
    a.call(call)?;
    a.pop(edx)?;
    a.add(eax, edx)?;
    a.set_label(&mut small)?;
    a.ret()?;
    a.assemble(u64::from(BASE + HEADERS))
}

/// What it prints.
pub fn answer() -> String {
    let fibonacci = (0..DEPTH).fold((0u32, 1u32), |(a, b), _| (b, a + b)).0;
    let (mut sum, mut last) = (0u32, 1u32);
    for _ in 0..ROUNDS {
        let mut numbers: Vec<u32> = Vec::new();
        for _ in 0..COUNT {
            last = last.wrapping_mul(69069).wrapping_add(1);
            numbers.push(last);
        }
        sum = numbers.iter().rev().fold(sum, |sum, n| sum.rotate_left(5).wrapping_add(*n));
        sum = sum.wrapping_add(fibonacci);
    }
    (0..8).map(|i| char::from(b'a' + (sum >> (28 - 4 * i) & 15) as u8)).collect()
}
