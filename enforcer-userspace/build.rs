//! Puts the BPF object where the crate embeds it: `OUT_DIR/enforcer-ebpf.o`. The object is built here, or taken from the
//! file that `ENFORCER_BPF_OBJECT` names (for packagers, and for machines that cannot build BPF). Beside it, the Rust form of
//! the protocols that credentials are fetched by, and that events may be sent by.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bpf_toolchain::{BuildError, HINT, LINKER_ENV, Toolchain, check_object, target_dir};

const OBJECT_ENV: &str = "ENFORCER_BPF_OBJECT";
const PROTOCOLS: [&str; 2] = ["proto/workload.proto", "proto/otlp.proto"];

fn main() -> ExitCode {
    match protocols().and_then(|()| object()).and_then(|object| embed(&object)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = error.what.to_string();
            let mut cause = error.what.source();
            while let Some(inner) = cause {
                message.push_str(&format!(": {inner}"));
                cause = inner.source();
            }
            // `cargo::error` shows these two lines alone, without the list of what else this script printed.
            println!("cargo::error={message}");
            println!("cargo::error=hint: {}", error.hint);
            // The compiler's own messages went to stderr, which cargo shows only when the script fails.
            if error.show_output { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

struct Failure {
    what: Box<dyn Error>,
    hint: &'static str,
    show_output: bool,
}

impl Failure {
    fn new(what: impl Into<Box<dyn Error>>, hint: &'static str) -> Self {
        Self { what: what.into(), hint, show_output: false }
    }
}

/// Compiled here as well: the usual compiler for such files is not installed everywhere.
fn protocols() -> Result<(), Failure> {
    for protocol in PROTOCOLS {
        println!("cargo::rerun-if-changed={protocol}");
    }
    let hint = "the files are a part of this crate: restore them";
    let files = protox::compile(PROTOCOLS, ["proto"]).map_err(|error| Failure::new(error, hint))?;
    tonic_prost_build::configure()
        .build_client(false)
        .compile_fds(files)
        .map_err(|error| Failure::new(error, "is the disk full?"))
}

fn object() -> Result<PathBuf, Failure> {
    println!("cargo::rerun-if-env-changed={OBJECT_ENV}");
    println!("cargo::rerun-if-env-changed={LINKER_ENV}");
    let workspace = workspace();
    if let Some(named) = env::var_os(OBJECT_ENV) {
        let object = workspace.join(named);
        println!("cargo::rerun-if-changed={}", object.display());
        return check_object(&object).map(|()| object).map_err(|error| {
            Failure::new(
                error,
                "unset `ENFORCER_BPF_OBJECT` to build the object, or name one that was built before",
            )
        });
    }
    // Everything that goes into the object, by path from this crate: sources of both crates, their manifests, the profile, the locked versions.
    for input in
        ["enforcer-ebpf", "enforcer-common/src", "enforcer-common/Cargo.toml", "Cargo.toml", "Cargo.lock"]
    {
        println!("cargo::rerun-if-changed=../{input}");
    }
    let toolchain = Toolchain::find(&workspace).map_err(|missing| Failure::new(missing, HINT))?;
    println!("cargo::rerun-if-changed={}", toolchain.compiler.rustc.display());
    println!("cargo::rerun-if-changed={}", toolchain.linker.path.display());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets this for build scripts");
    toolchain.build(&workspace, &target_dir(&workspace), &arch).map_err(|error| {
        let show_output = matches!(error, BuildError::Failed { .. });
        Failure { what: error.into(), hint: "the compiler's messages are below", show_output }
    })
}

fn embed(object: &Path) -> Result<(), Failure> {
    let out_dir = env::var_os("OUT_DIR").expect("cargo sets this for build scripts");
    let embedded = Path::new(&out_dir).join("enforcer-ebpf.o");
    fs::copy(object, &embedded).map(|_| ()).map_err(|error| {
        let message = format!("copy `{}` to `{}`: {error}", object.display(), embedded.display());
        Failure::new(message, "is the disk full?")
    })
}

/// Asked at run time: a target directory that two checkouts share may hold a script compiled in the other one.
fn workspace() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets this for build scripts");
    Path::new(&package).parent().expect("this crate is a folder of the workspace").to_owned()
}
