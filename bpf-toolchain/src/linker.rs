//! `bpf-linker`, which turns the compiler's bitcode into a BPF object with BTF. It reads bitcode of its own LLVM and of
//! older ones, so its LLVM must be at least that of the compiler.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::{Missing, on_path};

/// Names the linker to use; nothing else is looked at then.
pub const LINKER_ENV: &str = "ENFORCER_BPF_LINKER";

/// Where `cargo xtask setup` installs (`cargo install --root`), below the workspace.
pub const TOOLS: &str = "target/tools";

/// One `bpf-linker`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    /// The major version of its LLVM; `None` if LLVM is linked in and the file does not tell.
    pub llvm: Option<u32>,
}

impl Linker {
    /// The linkers found, the preferred one first; never an empty list.
    pub(crate) fn installed(workspace: &Path) -> Result<Vec<Self>, Missing> {
        if let Some(path) = env::var_os(LINKER_ENV) {
            // Absolute, because the linker is run in folders that cargo chooses.
            let path = workspace.join(path);
            return if path.is_file() {
                Ok(vec![Self::at(path)])
            } else {
                Err(Missing::NamedLinker { path })
            };
        }
        let own = Self::own_path(workspace);
        let found: Vec<_> = [own.is_file().then_some(own), on_path("bpf-linker")]
            .into_iter()
            .flatten()
            .map(Self::at)
            .collect();
        if found.is_empty() {
            Err(Missing::Linker { tools: workspace.join(TOOLS).join("bin") })
        } else {
            Ok(found)
        }
    }

    /// Where the linker is that `cargo xtask setup` installed, whether or not it is there.
    pub fn own_path(workspace: &Path) -> PathBuf {
        workspace.join(TOOLS).join("bin/bpf-linker")
    }

    fn at(path: PathBuf) -> Self {
        let llvm = shared_llvm(&path);
        Self { path, llvm }
    }
}

/// The LLVM that the program is linked with, from the library's name (`libLLVM.so.22.1`, `libLLVM-22.so`) in its dynamic
/// string table. Running it would not help: it prints only its own version.
fn shared_llvm(program: &Path) -> Option<u32> {
    // Linkers put the dynamic string table at the front; the rest of the file, some 40 MB, is code and debug information.
    const FRONT: u64 = 2 << 20;
    let mut front = Vec::new();
    File::open(program).ok()?.take(FRONT).read_to_end(&mut front).ok()?;
    [b"libLLVM.so.".as_slice(), b"libLLVM-"].into_iter().find_map(|name| {
        let start = front.windows(name.len()).position(|window| window == name)? + name.len();
        let digits = front[start..].iter().take_while(|byte| byte.is_ascii_digit()).copied().collect();
        String::from_utf8(digits).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_is_read_from_the_library_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bpf-linker");
        for (content, expected) in [
            (b"\x7fELF\0LLVMSetLinkage\0libLLVM.so.22.1\0".as_slice(), Some(22)),
            (b"\x7fELF\0libLLVM-21.so.1\0", Some(21)),
            (b"\x7fELF\0libLLVM.so\0statically linked", None),
            (b"", None),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(shared_llvm(&path), expected, "{}", content.escape_ascii());
        }
    }
}
