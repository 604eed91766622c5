//! A machine's end of the cable to a switch. It joins again when a switch has gone and comes back; in between the link is
//! down.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jail::Kind;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use serde::{Deserialize, Serialize};

use super::frame::Parcel;
use super::hello::{Answer, Join, Request, attach, make_room};
use super::home::{Folder, Home};
use super::vlan::Vlan;
use crate::bell::{Bell, Poller, Ready};
use crate::cable::Cable;
use crate::complete::{self, Need};
use crate::thread::{Network, Threaded};
use crate::{Abilities, Capture, Frame, GuestPort, Mac, NetError, Offload, Put};

/// Most frames in a row in one direction.
const BURST: usize = 64;
/// How often a switch that has gone is looked for, and how long it may take to answer.
const RETRY: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(5);
/// What descriptors are.
const BELL: u64 = 0;
const SWITCH: u64 = 1;

/// The definition of a card on a switch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwitchConfig {
    /// The switch's name.
    pub switch: String,
    /// What other members call the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address of the card; without it, one that follows from the name, or another one each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The VLAN; of a trunk, the one whose frames have no tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// VLANs of a trunk, whose frames have tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<Vlan>,
    /// The IPv4 address that it is to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// Most bytes in a second, in each direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// The guest may use others' addresses: it is a bridge or a router.
    pub spoof: bool,
    /// File for all frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<PathBuf>,
}

impl SwitchConfig {
    /// The card's address.
    ///
    /// # Errors
    /// The host gives no random numbers.
    pub fn mac(&self) -> io::Result<Mac> {
        match (self.mac, &self.name) {
            (Some(mac), _) => Ok(mac),
            (None, Some(name)) => {
                let [a, b, c, d, ..] =
                    super::leases::hash(format!("{}/{name}", self.switch).as_bytes()).to_be_bytes();
                Ok(Mac([0x52, 0x55, a, b, c, d]))
            }
            (None, None) => Mac::random(),
        }
    }
}

/// A card on a switch.
pub type SwitchNet = Threaded<Client>;

impl SwitchNet {
    /// Joins the switch.
    ///
    /// # Errors
    /// It is not there, or does not take us; or the host refuses the capture.
    pub fn new(config: &SwitchConfig, mac: Mac) -> Result<Self, NetError> {
        Ok(Self::of(Client::new(config, mac, &Home::of_user())?))
    }
}

/// The way to the switch.
enum State {
    /// There is none; the time to look again.
    Gone(Instant),
    /// It was asked; the time to give up.
    Asked(OwnedFd, Instant),
    /// We are a member.
    Joined(OwnedFd),
}

/// A card's cable to a switch.
pub struct Client {
    bell: Arc<Bell>,
    poller: Poller,
    ready: Vec<Ready>,
    folder: Folder,
    join: Join,
    state: State,
    cable: Cable,
    readable: bool,
    writable: bool,
    /// A frame of the guest's that the switch has no room for yet.
    frame: Frame,
    waits: bool,
    /// A frame for which the guest has no room yet.
    parcel: Parcel,
    pending: bool,
    /// The same, cut for a guest that takes no large ones.
    segments: VecDeque<Vec<u8>>,
    /// What the guest takes in this turn.
    takes: Abilities,
    busy: bool,
}

impl Client {
    fn new(config: &SwitchConfig, mac: Mac, home: &Home) -> Result<Self, NetError> {
        let error = |why: String| NetError::Switch { name: config.switch.clone(), why };
        let folder = home.folder(&config.switch).map_err(error)?;
        let join = Join {
            mac,
            name: config.name.clone(),
            vlan: config.vlan,
            trunk: config.trunk.clone(),
            ip: config.ip,
            rate: config.rate,
            spoof: config.spoof,
        };
        let (answer, socket) = attach(&folder, &Request::Join(join.clone())).map_err(|source| {
            let name = config.switch.clone();
            if folder.is_held() {
                NetError::Switch { name, why: source.to_string() }
            } else {
                NetError::NoSwitch(name)
            }
        })?;
        match answer {
            Answer::Joined(addresses) => tracing::info!("joined the switch {}: {addresses:?}", config.switch),
            Answer::Refused(why) => return Err(error(why)),
            _ => return Err(error("it answers something else".to_owned())),
        }
        rustix::io::ioctl_fionbio(&socket, true).map_err(io::Error::from)?;
        let (bell, poller) = (Arc::new(Bell::new()?), Poller::new()?);
        poller.watch_bell(&bell, BELL)?;
        poller.watch_edges(&socket, SWITCH)?;
        let capture = config.capture.as_deref().map(Capture::create).transpose()?;
        Ok(Self {
            bell,
            poller,
            ready: Vec::new(),
            folder,
            join,
            state: State::Joined(socket),
            cable: Cable::new(capture),
            readable: true,
            writable: true,
            frame: Frame::default(),
            waits: false,
            parcel: Parcel::default(),
            pending: false,
            segments: VecDeque::new(),
            takes: Abilities::default(),
            busy: false,
        })
    }

    /// Looks for a switch, and asks it; the answer comes later.
    fn look(&mut self, now: Instant) {
        let ask = || -> io::Result<OwnedFd> {
            let socket = self.folder.connect()?;
            make_room(&socket);
            rustix::io::ioctl_fionbio(&socket, true)?;
            self.poller.watch_edges(&socket, SWITCH)?;
            send(&socket, &Request::Join(self.join.clone()).encode()?, SendFlags::NOSIGNAL)?;
            Ok(socket)
        };
        self.state = ask().map_or(State::Gone(now + RETRY), |socket| State::Asked(socket, now + PATIENCE));
        (self.readable, self.writable) = (true, true);
    }

    /// Hears the answer, if it is there.
    fn hear(&mut self, now: Instant) {
        let State::Asked(socket, _) = &self.state else { return };
        let again = State::Gone(now + RETRY);
        let mut answer = Vec::with_capacity(1 << 14);
        let read = recv(socket, spare_capacity(&mut answer), RecvFlags::DONTWAIT);
        self.state = match (read, std::mem::replace(&mut self.state, State::Gone(now))) {
            (Ok((1.., _)), State::Asked(socket, _)) => match Answer::decode(&answer) {
                Ok(Answer::Joined(addresses)) => {
                    tracing::info!("joined the switch {} again: {addresses:?}", self.folder.name());
                    self.cable.link(true);
                    State::Joined(socket)
                }
                other => {
                    tracing::warn!("the switch {} does not take this machine: {other:?}", self.folder.name());
                    again
                }
            },
            (Err(Errno::AGAIN | Errno::INTR), State::Asked(socket, until)) if now < until => {
                State::Asked(socket, until)
            }
            _ => again,
        };
    }

    fn lose(&mut self) {
        tracing::warn!(
            "the switch {} has gone: make it again with guesthouse net create",
            self.folder.name()
        );
        self.state = State::Gone(Instant::now() + RETRY);
        self.cable.link(false);
        (self.waits, self.pending) = (false, false);
        self.segments.clear();
    }

    fn drain_guest(&mut self) -> bool {
        for _ in 0..BURST {
            let State::Joined(socket) = &self.state else {
                // As with a cable that is not plugged in.
                self.waits = false;
                if !self.cable.take(&mut self.frame) {
                    return false;
                }
                continue;
            };
            if !self.writable || !self.waits && !self.cable.take(&mut self.frame) {
                return false;
            }
            let header = self.frame.offload.encode(1);
            let parts = [IoSlice::new(&header), IoSlice::new(&self.frame.bytes)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(_) => self.waits = false,
                Err(Errno::INTR) => self.waits = true,
                Err(Errno::AGAIN) => (self.waits, self.writable) = (true, false),
                // One that the host cannot carry is lost; that nobody is there is found by reading.
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                    (self.waits, self.readable) = (false, true);
                    return false;
                }
                Err(_) => self.waits = false,
            }
        }
        true
    }

    /// Does what the guest does not take; false if the frame is not to be handed over whole.
    fn completed(&mut self) -> bool {
        match complete::need(&self.parcel.offload, self.takes) {
            Need::Nothing => true,
            Need::Checksum => self.parcel.complete(),
            Need::Cut => {
                self.segments
                    .extend(complete::cut(self.parcel.bytes(), &self.parcel.offload).unwrap_or_default());
                false
            }
        }
    }

    fn drain_switch(&mut self) -> bool {
        for _ in 0..BURST {
            if let Some(segment) = self.segments.front() {
                match self.cable.put(0, &Offload::default(), &[segment]) {
                    Put::Full => return false,
                    Put::Done | Put::Gone => drop(self.segments.pop_front()),
                }
                continue;
            }
            if !self.pending {
                let State::Joined(socket) = &self.state else { return false };
                if !self.readable {
                    return false;
                }
                match recv(socket, spare_capacity(self.parcel.room()), RecvFlags::DONTWAIT) {
                    Ok((1.., _)) => self.pending = self.parcel.arrived() && self.completed(),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => self.readable = false,
                    _ => {
                        self.lose();
                        return false;
                    }
                }
            }
            if self.pending {
                match self.cable.put(0, &self.parcel.offload, &[self.parcel.bytes()]) {
                    Put::Full => return false, // the guest tells when it has room
                    Put::Done | Put::Gone => self.pending = false,
                }
            }
        }
        true
    }
}

impl Network for Client {
    const NAME: &'static str = "net-switch";
    const KIND: Kind = Kind::Link;

    fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    fn plug(&mut self, port: Arc<dyn GuestPort>) {
        self.cable.plug(port);
    }

    fn turn(&mut self) {
        let now = Instant::now();
        let until = match self.state {
            State::Gone(until) | State::Asked(_, until) => Some(until.saturating_duration_since(now)),
            State::Joined(_) => None,
        };
        let timeout = if self.busy { Some(Duration::ZERO) } else { until };
        self.poller.wait(timeout, &mut self.ready);
        for event in &self.ready {
            match event.token {
                BELL => self.bell.heard(),
                _ => {
                    self.readable |= event.readable;
                    self.writable |= event.writable;
                }
            }
        }
        let now = Instant::now();
        match self.state {
            State::Gone(until) if until <= now => self.look(now),
            State::Asked(..) => self.hear(now),
            _ => {}
        }
        self.takes = self.cable.abilities();
        self.busy = self.drain_guest();
        self.busy |= self.drain_switch();
        self.cable.finish();
    }

    fn clear(&mut self) {
        (self.waits, self.pending) = (false, false);
        self.segments.clear();
    }
}
