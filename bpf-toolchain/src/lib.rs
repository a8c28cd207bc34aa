//! Finds what builds the BPF object on this machine, and builds it. Used by the build script of `enforcer-userspace` and by
//! `xtask`; never installs anything (that is `cargo xtask setup`) and is no part of what runs on a user's machine.
//!
//! Two things are needed: a compiler that has `core` for the BPF target ([`compiler`] lists the two ways to have one), and
//! `bpf-linker` built with an LLVM that can read the bitcode of that compiler ([`linker`]).
//!
//! Only the little-endian target is built: every machine the enforcer is meant for is little-endian.

#![forbid(unsafe_code)]

pub mod compiler;
pub mod linker;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

pub use compiler::{Compiler, Unusable};
pub use linker::{LINKER_ENV, Linker};

/// The BPF crate, which is also the name of its object file.
pub const PACKAGE: &str = "enforcer-ebpf";
/// What the compiler calls the machine that BPF programs run on.
pub const TARGET: &str = "bpfel-unknown-none";
/// The line to print below a [`Missing`].
pub const HINT: &str = "run `cargo xtask setup`, or name a prebuilt object in `ENFORCER_BPF_OBJECT`";

/// A compiler and a linker that work together.
#[derive(Debug, Clone)]
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: Linker,
}

/// Why the BPF object cannot be built here. Callers print [`HINT`] below it.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("no compiler for the BPF target is installed: {nightly}, and {system}")]
    Compiler { nightly: Unusable, system: Unusable },
    #[error("`bpf-linker` is neither in `{}` nor on the PATH", .tools.display())]
    Linker { tools: PathBuf },
    #[error("`{LINKER_ENV}` names `{}`, which is not a file", .path.display())]
    NamedLinker { path: PathBuf },
    #[error(
        "`{}` was built with LLVM {linker_llvm}, which cannot read the LLVM {compiler_llvm} bitcode of `{}`",
        .linker.display(), .rustc.display()
    )]
    LinkerTooOld { linker: PathBuf, linker_llvm: u32, rustc: PathBuf, compiler_llvm: u32 },
}

/// Why the BPF object was not built although the tools are here.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("start `{}`", .program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("building `{PACKAGE}` for `{TARGET}` ended with {status}")]
    Failed { status: ExitStatus },
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Why a file is not a BPF object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("read `{}`", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is not an ELF file", .path.display())]
    NotElf { path: PathBuf },
    #[error("`{}` is an ELF file for machine {machine} and not for BPF (machine {EM_BPF})", .path.display())]
    NotBpf { path: PathBuf, machine: u16 },
}

const EM_BPF: u16 = 247;

impl Toolchain {
    /// The first compiler, in the order of [`Compiler::installed`], that has a linker able to read its bitcode. Takes some
    /// tens of milliseconds, since it asks the compilers for their versions.
    pub fn find(workspace: &Path) -> Result<Self, Missing> {
        let compilers = Compiler::installed()?;
        Self::pair(compilers, &Linker::installed(workspace)?)
    }

    fn pair(compilers: Vec<Compiler>, linkers: &[Linker]) -> Result<Self, Missing> {
        let mut too_old = None;
        for compiler in compilers {
            for linker in linkers {
                match linker.llvm {
                    Some(llvm) if llvm < compiler.llvm => {
                        too_old.get_or_insert(Missing::LinkerTooOld {
                            linker: linker.path.clone(),
                            linker_llvm: llvm,
                            rustc: compiler.rustc.clone(),
                            compiler_llvm: compiler.llvm,
                        });
                    }
                    // A linker that does not tell its LLVM was put there by the user, who knows better than we do.
                    _ => return Ok(Self { compiler, linker: linker.clone() }),
                }
            }
        }
        Err(too_old.expect("both lists have at least one entry, and the first pair was refused"))
    }

    /// Builds the BPF crate and returns the path of the object. `arch` is the architecture the object will run on, as in
    /// `CARGO_CFG_TARGET_ARCH`: it decides how programs read registers. Compiler output goes to stderr.
    ///
    /// `target_dir` must not be the one of a cargo that waits for this build: cargo locks it, and both would wait for ever.
    pub fn build(&self, workspace: &Path, target_dir: &Path, arch: &str) -> Result<PathBuf, BuildError> {
        let mut command = self.compiler.cargo();
        command.arg("build");
        self.arguments(&mut command, workspace, target_dir, arch);
        let status = command
            .stdin(Stdio::null())
            // A build script's stdout is read by cargo as instructions.
            .stdout(io::stderr())
            .status()
            .map_err(|source| BuildError::Start { program: self.compiler.cargo.clone(), source })?;
        if !status.success() {
            return Err(BuildError::Failed { status });
        }
        let object = target_dir.join(TARGET).join("release").join(PACKAGE);
        check_object(&object)?;
        Ok(object)
    }

    /// `cargo clippy` of the BPF crate for its own target; `None` where this compiler has no clippy. The caller adds what
    /// goes to the compiler after `--`.
    pub fn clippy(&self, workspace: &Path, target_dir: &Path, arch: &str) -> Option<Command> {
        let mut command = self.compiler.clippy()?;
        self.arguments(&mut command, workspace, target_dir, arch);
        Some(command)
    }

    fn arguments(&self, command: &mut Command, workspace: &Path, target_dir: &Path, arch: &str) {
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker.path);
        let flags = [
            linker.as_os_str(),
            // The kernel wants BTF for typed maps and programs; the linker makes it from debug information.
            OsStr::new("-Cdebuginfo=2"),
            OsStr::new("-Clink-arg=--btf"),
            OsStr::new(&format!("--cfg=bpf_target_arch=\"{arch}\"")),
        ]
        .join(OsStr::new("\x1f"));
        // The lock file was written by the cargo that builds user space; another version must not rewrite it.
        command.args(["--release", "--locked", "--target", TARGET, "--package", PACKAGE]);
        if self.compiler.build_std() {
            command.args(["-Z", "build-std=core"]);
        }
        command
            .arg("--target-dir")
            .arg(target_dir)
            .current_dir(workspace)
            .env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
}

/// Where the BPF build keeps its files: beside the ordinary ones, and not in `OUT_DIR`, so that all build configurations
/// and `cargo xtask lint` share one compilation.
pub fn target_dir(workspace: &Path) -> PathBuf {
    let outer = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    workspace.join(outer).join("bpf")
}

/// Whether `path` is a BPF object, as far as its ELF header tells.
pub fn check_object(path: &Path) -> Result<(), ObjectError> {
    const MACHINE: usize = 18;
    let mut header = [0; MACHINE + 2];
    let read = |source| ObjectError::Read { path: path.to_owned(), source };
    match File::open(path).map_err(read)?.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ObjectError::NotElf { path: path.to_owned() });
        }
        outcome => outcome.map_err(read)?,
    }
    if !header.starts_with(b"\x7fELF") {
        return Err(ObjectError::NotElf { path: path.to_owned() });
    }
    match u16::from_le_bytes([header[MACHINE], header[MACHINE + 1]]) {
        EM_BPF => Ok(()),
        machine => Err(ObjectError::NotBpf { path: path.to_owned(), machine }),
    }
}

/// The first file of that name in a folder of PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(llvm: u32) -> Compiler {
        Compiler { llvm, ..Compiler::for_tests() }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        Linker { path: PathBuf::from("/tools/bpf-linker"), llvm }
    }

    #[test]
    fn a_linker_serves_compilers_up_to_its_own_llvm() {
        // Compilers in order of preference, the linker, and the compiler that is chosen.
        let cases: &[(&[u32], Option<u32>, Option<u32>)] = &[
            (&[22], Some(22), Some(22)),
            (&[21], Some(22), Some(21)),
            (&[23, 22], Some(22), Some(22)),
            (&[23, 22], Some(23), Some(23)),
            (&[23], Some(22), None),
            (&[23], None, Some(23)),
        ];
        for (compilers, linker_llvm, expected) in cases {
            let compilers = compilers.iter().copied().map(compiler).collect();
            let chosen = Toolchain::pair(compilers, &[linker(*linker_llvm)]).ok().map(|t| t.compiler.llvm);
            assert_eq!(chosen, *expected, "linker {linker_llvm:?}");
        }
    }

    #[test]
    fn an_object_is_known_by_its_elf_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let elf =
            |machine: u8| [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 11], &[machine, 0], &[0; 40]].concat();
        let cases = [
            (elf(247), "ok"),
            (elf(62), "is an ELF file for machine 62 and not for BPF (machine 247)"),
            (b"#!/bin/sh, and then some more".to_vec(), "is not an ELF file"),
            (b"\x7fELF".to_vec(), "is not an ELF file"),
        ];
        for (content, expected) in cases {
            std::fs::write(&path, content).unwrap();
            let found = check_object(&path).map_or_else(|e| e.to_string(), |()| "ok".to_owned());
            assert!(found.ends_with(expected), "{found}");
        }
        assert!(matches!(check_object(&folder.path().join("none")), Err(ObjectError::Read { .. })));
    }
}
