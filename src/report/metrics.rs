use std::time::Duration;
use crate::election::Reason;
pub struct Metrics;
impl Metrics { pub fn new()->Self{Metrics} pub fn api_request(&self,_:&str,_:&str){} pub fn changed(&self,_:&str,_:bool,_:Reason){} pub fn report_write_failed(&self){} pub fn renewed(&self,_:&str,_:Duration){} pub fn renew_failed(&self,_:&str,_:&str){} pub fn watch_restarted(&self,_:&str){} }
