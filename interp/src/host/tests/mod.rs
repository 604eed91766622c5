mod differential;
mod faults;
mod generate;
mod guest;
mod native;
mod random;
mod special;
mod state;
