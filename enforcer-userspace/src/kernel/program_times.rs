//! What our programs took, if the kernel counts that (`kernel.bpf_stats_enabled`, Documentation/admin-guide/sysctl/kernel.rst).

use std::{fs, os::fd::AsRawFd as _, time::Duration};

use aya::programs::loaded_programs;

use super::{Kernel, KernelError};
use crate::metrics::ProgramTime;

impl Kernel {
    /// Whether the kernel counts for everybody. Somebody may have it count for a while without that (`BPF_ENABLE_STATS`).
    pub(crate) fn is_timed() -> bool {
        fs::read("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.starts_with(b"1"))
    }

    /// What each ran since it was loaded, while the kernel counted, and how many runs the kernel left out.
    pub(crate) fn program_times(&self) -> Result<Vec<ProgramTime>, KernelError> {
        let names: Vec<_> = self.coverage();
        let name = |id| {
            let of = |coverage: &&super::Coverage| {
                coverage.link.as_ref().is_ok_and(|linked| linked.program_id == id)
            };
            names.iter().find(of).map(|coverage| coverage.hook.program)
        };
        let mut times = Vec::new();
        // One that is gone meanwhile is not ours.
        for program in loaded_programs().filter_map(Result::ok) {
            let Some(name) = name(program.id()) else { continue };
            let Ok(fd) = program.fd() else { continue };
            let path = format!("/proc/self/fdinfo/{}", std::os::fd::AsFd::as_fd(&fd).as_raw_fd());
            let text = fs::read_to_string(&path)
                .map_err(|source| KernelError::Open { path: path.into(), source })?;
            let field = |field: &str| {
                let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
                value.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            times.push(ProgramTime {
                id: program.id(),
                program: name,
                runs: field("run_cnt"),
                time: Duration::from_nanos(field("run_time_ns")),
                misses: field("recursion_misses"),
            });
        }
        Ok(times)
    }
}
