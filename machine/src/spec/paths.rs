//! The files that a definition names: relative ones are relative to something.

use std::path::{Path, PathBuf};

use crate::{MachineSpec, NetSpec};

impl MachineSpec {
    /// Takes relative paths for ones in this folder.
    pub fn resolve_paths(&mut self, folder: &Path) {
        for path in self.paths().filter(|path| path.is_relative() && !path.as_os_str().is_empty()) {
            *path = folder.join(&path);
        }
    }

    /// Every path of the host's in it; a new one has to be named here.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let captures = self.nets.iter_mut().filter_map(|net| match net {
            NetSpec::User(config) => config.capture.as_mut(),
            NetSpec::Tap(config) => config.capture.as_mut(),
            NetSpec::Switch(config) => config.capture.as_mut(),
        });
        std::iter::once(&mut self.kernel)
            .chain(&mut self.initrd)
            .chain(self.modules.iter_mut().map(|module| &mut module.path))
            .chain(self.disks.iter_mut().map(|disk| &mut disk.path))
            .chain(self.shares.iter_mut().map(|share| &mut share.path))
            .chain(self.ports.iter_mut().map(|port| &mut port.path))
            .chain(self.vsock.iter_mut().map(|vsock| &mut vsock.path))
            .chain(&mut self.limits.cgroup)
            .chain(captures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_relative_to_the_files_folder() {
        let text = "initrd = \"i\"\n[[modules]]\npath = \"m\"\n[[disks]]\npath = \"/d\"\n[[ports]]\nname = \"p\"\n\
                    path = \"../p\"\n[[shares]]\ntag = \"t\"\npath = \".\"\n[[nets]]\nkind = \"user\"\ncapture = \"c\"\n[vsock]\npath = \"v\"\n[limits]\ncgroup = \"g\"\n";
        let mut spec: MachineSpec = toml::from_str(text).unwrap();
        spec.resolve_paths(Path::new("/f"));
        let paths: Vec<_> = spec.paths().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["", "/f/i", "/f/m", "/d", "/f/.", "/f/../p", "/f/v", "/f/g", "/f/c"]);
    }
}
