{{/*
Fails, with the value's path, where `leasehold run` would refuse its flags, and where the pod could not work.
The schema says what it can of this; the relations between values are here alone.
*/}}
{{- define "leasehold.validate" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- $kubernetes := .ctx.Capabilities.KubeVersion.Version -}}
{{- if semverCompare "<1.29.0-0" $kubernetes -}}
{{- fail (printf "leasehold needs Kubernetes 1.29 or newer, for native sidecars (init containers with restartPolicy: Always); this cluster is %s" $kubernetes) -}}
{{- end -}}
{{- include "leasehold.validate.name" . -}}
{{- include "leasehold.validate.times" . -}}
{{- include "leasehold.validate.app" . -}}
{{- include "leasehold.validate.members" . -}}
{{- include "leasehold.validate.rest" . -}}
{{- end -}}

{{- define "leasehold.validate.name" -}}
{{- $name := .lease | toString -}}
{{- if or (not .lease) (gt (len $name) 230) (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" $name)) -}}
{{- fail (printf "lease.name: %q is no name for a Lease: 1 to 230 lower-case letters, digits and '-' between them, in parts joined by '.'" $name) -}}
{{- end -}}
{{- end -}}

{{- define "leasehold.validate.times" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- $lease := $v.lease -}}
{{- if not (has ($lease.timing | default "standard") (list "standard" "calm" "fast")) -}}
{{- fail (printf "lease.timing: %q is none of standard, calm and fast" (toString $lease.timing)) -}}
{{- end -}}
{{- /* As the sidecar derives them, in milliseconds. */ -}}
{{- $duration := include "leasehold.milliseconds" (dict "path" "lease.duration" "time" (include "leasehold.duration" .)) | int64 -}}
{{- $deadline := div (mul $duration 4) 5 -}}
{{- with $lease.renewDeadline }}{{ $deadline = include "leasehold.milliseconds" (dict "path" "lease.renewDeadline" "time" .) | int64 }}{{ end -}}
{{- $interval := max (div $duration 5) 1000 -}}
{{- with $lease.renewInterval }}{{ $interval = include "leasehold.milliseconds" (dict "path" "lease.renewInterval" "time" .) | int64 }}{{ end -}}
{{- $retry := min (max (div $duration 15) 100) 1000 -}}
{{- with $lease.retryPeriod }}{{ $retry = include "leasehold.milliseconds" (dict "path" "lease.retryPeriod" "time" .) | int64 }}{{ end -}}
{{- $ttl := include "leasehold.milliseconds" (dict "path" "lease.answerTTL" "time" ($lease.answerTTL | default "1s")) | int64 -}}
{{- $grace := include "leasehold.milliseconds" (dict "path" "shutdownGrace" "time" ($v.shutdownGrace | default "25s")) | int64 -}}

{{- if or (mod $duration 1000) (lt $duration 2000) (gt $duration 3600000) -}}
{{- fail (printf "lease.duration: %s: it must be whole seconds, from 2s to 1h" (include "leasehold.duration" .)) -}}
{{- end -}}
{{- if ge (mul $deadline 1000) (mul $duration 998) -}}
{{- fail (printf "lease.renewDeadline: %dms must be below %dms: the lease duration less what two clocks may differ in that time (0.1 %% each)" $deadline (div (mul $duration 998) 1000)) -}}
{{- end -}}
{{- if lt $interval 1000 -}}
{{- fail (printf "lease.renewInterval: %dms: it must be at least 1s: the API server pays for each renewal" $interval) -}}
{{- end -}}
{{- if lt $retry 100 -}}
{{- fail (printf "lease.retryPeriod: %dms: it must be at least 100ms" $retry) -}}
{{- end -}}
{{- if ge (add $interval $retry) $deadline -}}
{{- fail (printf "lease.renewInterval, lease.retryPeriod: together (%dms) they must be shorter than lease.renewDeadline (%dms), so that one failed renewal can be tried again; what is not given follows lease.duration (%s)" (add $interval $retry) $deadline (include "leasehold.duration" .)) -}}
{{- end -}}
{{- if or (lt $ttl 100) (gt $ttl $deadline) -}}
{{- fail (printf "lease.answerTTL: %dms: it must be between 100ms and the renew deadline (%dms)" $ttl $deadline) -}}
{{- end -}}
{{- if lt $grace (add $ttl 2000) -}}
{{- fail (printf "shutdownGrace: %dms must be at least 2s longer than the answer TTL (%dms): promises are waited out, and then the lease is released" $grace $ttl) -}}
{{- end -}}
{{- end -}}

{{- define "leasehold.validate.app" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- $octet := "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])" -}}
{{- $host := printf "(localhost|127(\\.%s){3}|\\[::1\\]|\\$\\(POD_IP\\)|\\[\\$\\(POD_IP\\)\\])" $octet -}}
{{- $port := "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])" -}}
{{- $known := printf "^(lock|session|asking|tcp://%s:%s|http://%s:%s([/?][A-Za-z0-9._~%%!$&'()*+;=:@/?-]*)?)$" $host $port $host $port -}}
{{- $seen := list -}}
{{- range include "leasehold.evidence" $v | splitList "\n" -}}
{{- if . -}}
{{- if or (gt (len .) 1000) (not (regexMatch $known .)) -}}
{{- fail (printf "app.alive: %q is none of lock, session, asking, http://ADDRESS:PORT/PATH and tcp://ADDRESS:PORT with an address of this pod: 127.0.0.1, [::1], localhost or $(POD_IP); a comma is written %%2C" .) -}}
{{- end -}}
{{- $shown := splitList "?" . | first -}}
{{- if has $shown $seen -}}
{{- fail (printf "app.alive: %s is given twice" $shown) -}}
{{- end -}}
{{- $seen = append $seen $shown -}}
{{- $own := regexFind ":[0-9]+" (trimPrefix "http://" $shown | trimPrefix "tcp://" | replace "[::1]" "") -}}
{{- $own = regexReplaceAll "^:0*" $own "" -}}
{{- if and $own (has ($own | int) (list ($v.ports.app | int) ($v.ports.probes | int))) -}}
{{- fail (printf "app.alive: %s is the sidecar's own port: it says nothing of the app" $shown) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (has $v.onSigterm (list "auto" "release" "wait-for-app")) -}}
{{- fail (printf "onSigterm: %q is none of auto, release and wait-for-app" (toString $v.onSigterm)) -}}
{{- end -}}
{{- if and (eq $v.onSigterm "wait-for-app") (not $seen) -}}
{{- fail "onSigterm: wait-for-app needs app.alive: nothing shows when the app has ended" -}}
{{- end -}}
{{- end -}}

{{- define "leasehold.validate.members" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- if not $v.lease.enabled -}}
{{- if not $v.members.enabled -}}
{{- fail "lease.enabled: without an election there is nothing to do, unless members.enabled is on" -}}
{{- end -}}
{{- if $v.role.label -}}
{{- fail "role.label: without lease.enabled no pod is leader or standby" -}}
{{- end -}}
{{- end -}}
{{- with $v.members -}}
{{- if .enabled -}}
{{- $group := include "leasehold.group" $ -}}
{{- if or (gt (len $group) 63) (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" $group)) -}}
{{- fail (printf "members.group: %q is no name for a group, which is a label's value as well: 1 to 63 lower-case letters, digits and '-' between them, in parts joined by '.'; left empty, it is lease.name" $group) -}}
{{- end -}}
{{- if and $v.lease.enabled (eq (toString $.lease) "members") -}}
{{- fail "lease.name: no Lease may be named \"members\" beside members.enabled: members.json speaks of the members" -}}
{{- end -}}
{{- $duration := include "leasehold.milliseconds" (dict "path" "members.leaseDuration" "time" (.leaseDuration | default "40s")) | int64 -}}
{{- $interval := div $duration 4 -}}
{{- with .renewInterval }}{{ $interval = include "leasehold.milliseconds" (dict "path" "members.renewInterval" "time" .) | int64 }}{{ end -}}
{{- if or (mod $duration 1000) (lt $duration 3000) (gt $duration 86400000) -}}
{{- fail (printf "members.leaseDuration: %dms: it must be whole seconds, from 3s to 24h" $duration) -}}
{{- end -}}
{{- if or (lt $interval 1000) (gt (mul $interval 2) $duration) -}}
{{- fail (printf "members.renewInterval: %dms must be at least 1s and at most half of members.leaseDuration (%dms): one renewal may be lost; left empty, it is a quarter" $interval $duration) -}}
{{- end -}}
{{- $size := 0 -}}
{{- range $key, $value := .annotations -}}
{{- $parts := splitList "/" $key -}}
{{- if or (gt (len $parts) 2) (gt (len (last $parts)) 63) (gt (len (first $parts)) 253) (not (regexMatch "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$" $key)) -}}
{{- fail (printf "members.annotations: %q is no key of an annotation" $key) -}}
{{- end -}}
{{- if hasPrefix "leasehold.dev/" $key -}}
{{- fail (printf "members.annotations: %s is leasehold's own" $key) -}}
{{- end -}}
{{- /* A flag takes several, separated by commas. */ -}}
{{- if or (not (kindIs "string" $value)) (contains "," (toString $value)) -}}
{{- fail (printf "members.annotations: the value of %s must be text without a comma" $key) -}}
{{- end -}}
{{- $size = add $size (len $key) (len $value) -}}
{{- end -}}
{{- if gt $size 65536 -}}
{{- fail (printf "members.annotations: they have %d bytes, and 64 KiB fit: each member keeps those of all" $size) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "leasehold.validate.rest" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- range $name, $port := $v.ports -}}
{{- if or (lt ($port | int) 1) (gt ($port | int) 65535) -}}
{{- fail (printf "ports.%s: %v is no port: 1 to 65535" $name $port) -}}
{{- end -}}
{{- end -}}
{{- if eq ($v.ports.app | int) ($v.ports.probes | int) -}}
{{- fail (printf "ports.app, ports.probes: both are %d" ($v.ports.app | int)) -}}
{{- end -}}
{{- if not (has $v.logLevel (list "error" "warn" "info" "debug" "trace")) -}}
{{- fail (printf "logLevel: %q is none of error, warn, info, debug and trace" (toString $v.logLevel)) -}}
{{- end -}}
{{- /* Given twice, a flag is refused by the sidecar, or means something else here than there. */ -}}
{{- $taken := dict
  "--lease" "lease.name" "--election" "lease.name"
  "--lease-duration" "lease.duration" "--ttl" "lease.duration" "--renew-deadline" "lease.renewDeadline"
  "--renew-interval" "lease.renewInterval" "--retry-period" "lease.retryPeriod" "--answer-ttl" "lease.answerTTL"
  "--member-of" "members.group" "--member-lease-duration" "members.leaseDuration"
  "--member-renew-interval" "members.renewInterval" "--member-annotation" "members.annotations"
  "--app-alive" "app.alive" "--on-sigterm" "onSigterm" "--shutdown-grace" "shutdownGrace" "--log-level" "logLevel"
  "--listen" "ports.app" "--http" "ports.app" "--probe-listen" "ports.probes" "--role-label" "role.label" "--events" "events.enabled" -}}
{{- range $v.extraArgs -}}
{{- $flag := splitList "=" (toString .) | first -}}
{{- with get $taken $flag -}}
{{- fail (printf "extraArgs: %s has a value of its own: %s" $flag .) -}}
{{- end -}}
{{- if has $flag (list "--report-dir" "--state-dir" "--namespace" "-n" "--election-namespace") -}}
{{- fail (printf "extraArgs: %s is fixed by the volumes and the Role of this chart" $flag) -}}
{{- end -}}
{{- end -}}
{{- end -}}
