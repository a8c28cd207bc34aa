//! The programs that a file names, to be executed with it.

use std::{fs::File, os::unix::fs::FileExt as _};

/// The interpreter that a script names (`#!`), as the kernel reads it; nothing for what names none.
pub(crate) fn interpreter_of(file: &File) -> Option<String> {
    /// v6.1/include/uapi/linux/binfmts.h, BINPRM_BUF_SIZE.
    const READ: usize = 256;
    let mut start = [0; READ];
    let len = file.read_at(&mut start, 0).ok()?;
    let line = start.get(..len)?.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | 0);
    let name = line.split(blank).find(|word| !word.is_empty())?;
    Some(str::from_utf8(name).ok()?.to_owned())
}

/// The loader that an ELF program of 64 bits names (`PT_INTERP`); nothing for one that needs none, or another format.
pub(crate) fn loader_of(file: &File) -> Option<String> {
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    const MOST_HEADERS: u16 = 128;
    const PT_INTERP: u32 = 3;
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).ok()?;
    // 64 bits, in this machine's order.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let short = |at: usize| Some(u16::from_le_bytes(*header.get(at..)?.first_chunk()?));
    let start = u64::from_le_bytes(*header.get(32..)?.first_chunk()?);
    let (size, count) = (short(54)?, short(56)?.min(MOST_HEADERS));
    for number in 0..u64::from(count) {
        let mut program = [0; PROGRAM_HEADER];
        file.read_exact_at(&mut program, start.checked_add(number * u64::from(size))?).ok()?;
        let word = |at: usize| Some(u64::from_le_bytes(*program.get(at..)?.first_chunk()?));
        if u32::from_le_bytes(*program.first_chunk()?) != PT_INTERP {
            continue;
        }
        let (at, len) = (word(8)?, usize::try_from(word(32)?).ok().filter(|len| *len <= 4096)?);
        let mut name = vec![0; len];
        file.read_exact_at(&mut name, at).ok()?;
        let name = name.split(|byte| *byte == 0).next()?;
        return Some(str::from_utf8(name).ok()?.to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_script_names_its_interpreter() {
        for (text, expect) in [
            ("#!/bin/sh\necho", Some("/bin/sh")),
            ("#! \t/usr/bin/env  python3 -u", Some("/usr/bin/env")),
            ("#!\n/bin/sh", None),
            ("/bin/sh", None),
            ("", None),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            assert_eq!(interpreter_of(&file).as_deref(), expect, "{text:?}");
        }
    }

    #[test]
    fn a_program_names_its_loader() {
        let shell = File::open("/bin/sh").unwrap();
        let loader = loader_of(&shell).expect("the shell is linked dynamically");
        assert!(std::path::Path::new(&loader).exists(), "{loader}");
        assert_eq!(loader_of(&File::open("/etc/passwd").unwrap()), None);
    }
}
