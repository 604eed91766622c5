mod differential;
mod generate;
mod guest;
mod native;
