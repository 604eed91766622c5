//! What a switch's process keeps.

use jail::{Access, Jail, Kind};

use super::{Folder, Switch, SwitchSpec};
use crate::UserNet;

impl Switch {
    /// The jail of a process that makes this switch and does nothing else. It has to be entered before the switch is made, with
    /// its socket and its files open: what is left of files are the names in its folder, to be removed.
    #[must_use]
    pub fn jail(spec: &SwitchSpec, folder: &Folder) -> Jail {
        let mut jail = Jail::default();
        jail.kind(Kind::Switch).allow(folder.path(), Access::Remove);
        if let Some(home) = folder.path().parent() {
            jail.allow(home, Access::RemoveFolders);
        }
        if spec.vlans.iter().any(|vlan| vlan.subnet.is_some()) {
            UserNet::allow(&mut jail, &spec.uplink());
        }
        jail
    }
}
