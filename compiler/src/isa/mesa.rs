//! Where a Mesa is that compiles for absent chips, and the environment that makes a process use it.
//!
//! `.ci/mesa` unpacks one into `.tools/radv-null` of the source tree; Debian 13 has one of its own. Nothing here downloads.

use super::{Chip, IsaError};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folder of the source tree that `.ci/mesa` fills.
const UNPACKED: &str = ".tools/radv-null";

/// A Mesa.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mesa {
    /// The file by which the loader finds the driver.
    icd: PathBuf,
    /// Folder of libraries that go before the system's.
    libraries: Option<PathBuf>,
}

impl Mesa {
    /// The one in `dir`; without a folder, the one that `.ci/mesa` put into the source tree around the working directory
    /// or around this executable.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(dir: Option<&Path>) -> Result<Self, IsaError> {
        let looked: Vec<PathBuf> = match dir {
            Some(dir) => vec![dir.to_owned()],
            None => {
                let starts = [env::current_dir().ok(), env::current_exe().ok()];
                let mut around: Vec<PathBuf> = starts
                    .iter()
                    .flatten()
                    .flat_map(|start| start.ancestors())
                    .map(|folder| folder.join(UNPACKED))
                    .filter(|folder| folder.is_dir())
                    .collect();
                if around.is_empty() {
                    around.push(PathBuf::from(UNPACKED));
                }
                around
            }
        };
        match looked.iter().find_map(|dir| Self::in_folder(dir)) {
            Some(mesa) => Ok(mesa),
            None => Err(IsaError::NoMesa { looked }),
        }
    }

    fn in_folder(dir: &Path) -> Option<Self> {
        let dir = fs::canonicalize(dir).ok()?;
        // As unpacked by .ci/mesa, by dpkg-deb, and as the system has it.
        let places = [dir.clone(), dir.join("usr/share/vulkan/icd.d")];
        let icd = places.iter().find_map(|place| {
            let mut files: Vec<PathBuf> = fs::read_dir(place)
                .ok()?
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    name == "icd.json" || name.starts_with("radeon_icd") && name.ends_with(".json")
                })
                .collect();
            files.sort();
            files.into_iter().next()
        })?;
        let libraries = [dir.join("lib"), dir.join("usr/lib/x86_64-linux-gnu")];
        Some(Self {
            icd,
            libraries: libraries.into_iter().find(|folder| folder.is_dir()),
        })
    }

    /// Makes a command run with this Mesa as a chip's driver.
    pub(super) fn select(&self, command: &mut Command, chip: Chip) {
        command
            .env("VK_DRIVER_FILES", &self.icd)
            // The name that loaders before 1.3.207 know.
            .env("VK_ICD_FILENAMES", &self.icd)
            .env("RADV_FORCE_FAMILY", chip.name())
            // Code in a cache has lost its statistics.
            .env("MESA_SHADER_CACHE_DISABLE", "true")
            // Others' layers and settings have no say in what the compiler makes.
            .env("VK_LOADER_LAYERS_DISABLE", "~implicit~")
            .env_remove("RADV_DEBUG")
            .env_remove("RADV_PERFTEST")
            .env_remove("ACO_DEBUG");
        if let Some(libraries) = &self.libraries {
            let mut path = libraries.as_os_str().to_owned();
            if let Some(rest) = env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty()) {
                path.push(OsString::from(":"));
                path.push(rest);
            }
            command.env("LD_LIBRARY_PATH", path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_driver_is_refused_with_what_to_do() {
        let empty = tempfile::tempdir().expect("a temporary folder");
        let error = Mesa::find(Some(empty.path())).expect_err("nothing is there");
        let message = error.to_string();
        assert!(message.contains(".ci/mesa fetch"), "{message}");
        assert!(
            message.contains(&empty.path().display().to_string()),
            "{message}"
        );
    }

    #[test]
    fn finds_the_driver_in_each_layout() {
        for (icd, libraries) in [
            ("icd.json", Some("lib")),
            ("radeon_icd.x86_64.json", None),
            (
                "usr/share/vulkan/icd.d/radeon_icd.json",
                Some("usr/lib/x86_64-linux-gnu"),
            ),
        ] {
            let root = tempfile::tempdir().expect("a temporary folder");
            let icd = root.path().join(icd);
            fs::create_dir_all(icd.parent().expect("it lies in a folder")).expect("made");
            fs::write(&icd, "{}").expect("written");
            if let Some(libraries) = libraries {
                fs::create_dir_all(root.path().join(libraries)).expect("made");
            }
            let mesa = Mesa::find(Some(root.path())).expect("found");
            assert_eq!(mesa.icd, fs::canonicalize(&icd).expect("it is there"));
            let libraries =
                libraries.map(|l| fs::canonicalize(root.path().join(l)).expect("there"));
            assert_eq!(mesa.libraries, libraries);
        }
    }
}
