use std::path::Path; use std::sync::Arc; use super::Board; use crate::time::Moment;
#[derive(Debug,thiserror::Error)] #[error("x")] pub struct Error;
pub struct FileReport; impl FileReport { pub fn open(_:&Path,_:Vec<Arc<Board>>)->Result<Self,Error>{Ok(FileReport)} pub fn reset(&mut self,_:Moment)->Result<(),Error>{Ok(())} pub fn refresh(&mut self,_:usize,_:Moment)->std::io::Result<()>{Ok(())} }
pub enum Verdict { Leader{token:u64}, NotLeader } pub fn read(_:&Path,_:Moment,_:&str)->Result<Verdict,Error>{Err(Error)}
