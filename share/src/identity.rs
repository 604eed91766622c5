//! Who owns what: users of the guest's and users of the host's.

use rustix::process::{getegid, geteuid};

/// The one who is nobody in particular.
const NOBODY: u32 = 65534;

/// How users and groups of both sides correspond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Numbers are the same on both sides: this process is root.
    Same,
    /// The guest's root is the user who runs this process, and everybody else is nobody.
    User {
        /// The user.
        uid: u32,
        /// His group.
        gid: u32,
    },
}

/// A user and a group of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Identity {
    /// That of this process.
    pub fn of_process() -> Self {
        match geteuid().as_raw() {
            0 => Self::Same,
            uid => Self::User { uid, gid: getegid().as_raw() },
        }
    }

    /// The guest's numbers for an owner on the host.
    pub fn to_guest(self, owner: Owner) -> Owner {
        let to = |id, own| if id == own { 0 } else { NOBODY };
        match self {
            Self::Same => owner,
            Self::User { uid, gid } => Owner { uid: to(owner.uid, uid), gid: to(owner.gid, gid) },
        }
    }

    /// Who is to own what that user of the guest's makes. What the user's guest makes is the user's, whoever it was there.
    pub fn of_new(self, owner: Owner) -> Owner {
        match self {
            Self::Same => owner,
            Self::User { uid, gid } => Owner { uid, gid },
        }
    }

    /// The host's number for a user or group that the guest gives a file to; None if it cannot be given to them.
    pub fn user_to_host(self, id: u32) -> Option<u32> {
        match self {
            Self::Same => Some(id),
            Self::User { uid, .. } => (id == 0).then_some(uid),
        }
    }

    /// The same for a group.
    pub fn group_to_host(self, id: u32) -> Option<u32> {
        match self {
            Self::Same => Some(id),
            Self::User { gid, .. } => (id == 0).then_some(gid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_guest_sees_the_user_as_root_and_all_others_as_nobody() {
        let mapped = Identity::User { uid: 1000, gid: 100 };
        assert_eq!(mapped.to_guest(Owner { uid: 1000, gid: 0 }), Owner { uid: 0, gid: NOBODY });
        assert_eq!(mapped.to_guest(Owner { uid: 0, gid: 100 }), Owner { uid: NOBODY, gid: 0 });
        assert_eq!(mapped.of_new(Owner { uid: 7, gid: 7 }), Owner { uid: 1000, gid: 100 });
        assert_eq!([0, 1, 1000].map(|id| mapped.user_to_host(id)), [Some(1000), None, None]);
        assert_eq!([0, 100].map(|id| mapped.group_to_host(id)), [Some(100), None]);
        let owner = Owner { uid: 5, gid: 6 };
        assert_eq!((Identity::Same.to_guest(owner), Identity::Same.of_new(owner)), (owner, owner));
    }
}
