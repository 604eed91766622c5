mod garbage;
mod guest;
mod services;
mod tcp;
mod udp;
