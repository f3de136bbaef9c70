pub mod status;
pub use status::{Leading, Reason, Status};
