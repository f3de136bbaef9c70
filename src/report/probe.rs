use std::sync::Arc; use super::http::{Listener,SharedClock}; use super::{Board,metrics::Metrics}; use crate::time::Moment;
#[derive(Clone,Copy,Debug,PartialEq,Eq,clap::ValueEnum)] pub enum ReadyWhen { Observed, Serving }
pub struct Health; impl Health { pub fn new(_:usize,_:ReadyWhen,_:Moment)->Self{Health} pub fn beat(&self,_:Moment){} pub fn observed(&self,_:usize){} }
pub struct Probes { pub boards: Vec<Arc<Board>>, pub clock: SharedClock, pub health: Arc<Health>, pub metrics: Arc<Metrics> }
pub async fn run(_l: Vec<Listener>, _p: Probes, mut s: tokio::sync::watch::Receiver<bool>) { let _ = s.wait_for(|x|*x).await; }
