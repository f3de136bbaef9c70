{{/*
Why a pod cannot be injected: when an expression is false, its sentence is said. The mutating policy leaves such a pod
alone, and the validating one refuses it with these sentences.
*/}}
{{- define "leasehold-injector.faults" -}}
- unless: object.spec.?os.?name.orValue('') != 'windows'
  say: "'the sidecar runs on Linux, and this pod is for Windows'"
- unless: variables.annotations.all(key, !key.startsWith('leasehold.dev/') || key in {{ include "leasehold-injector.annotations" . }})
  say: |-
    variables.annotations.map(key, key).filter(key, key.startsWith('leasehold.dev/') && !(key in {{ include "leasehold-injector.annotations" . }})).join(', ') +
      ' is no annotation of leasehold: see the table in docs/injection.md'
- unless: variables.leases != ['']
  say: |-
    'this pod belongs to ' + (variables.owner.size() == 1 ? 'the ' + variables.owner[0].kind + ' ' + variables.owner[0].name : 'no workload') +
      ', and only a pod of a Deployment or a StatefulSet has a Lease of its name: name one by the annotation leasehold.dev/lease'
# A name for files too, so it is shorter than a Lease's may be.
- unless: |-
    variables.leases == [''] || variables.leases.all(l, size(l) <= 230 &&
      l.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$') && variables.leases.exists_one(other, other == l))
  say: |-
    '"' + variables.leases.join(',') + '" is no name of a Lease: lower-case letters, digits, "-" and "." between them, at most 230 characters; several are separated by a comma and differ'
# The files status.* speak of the first lease.
- unless: "!('status' in variables.leases) || variables.leases[0] == 'status'"
  say: "'leasehold.dev/lease is \"' + variables.leases.join(',') + '\": a Lease named status must be the first of them'"
{{- include "leasehold-injector.memberFaults" . }}
- unless: variables.timing in ['standard', 'calm', 'fast']
  say: "'leasehold.dev/timing is \"' + variables.timing + '\": it must be standard, calm or fast'"
# The renew interval is 1 s at least, which leaves no time for a retry in a shorter lease.
- unless: |-
    variables.leaseDuration.matches('^[1-9][0-9]{0,3}s$') &&
      int(variables.leaseDuration.replace('s', '')) >= 2 && int(variables.leaseDuration.replace('s', '')) <= 3600
  say: "'leasehold.dev/lease-duration is \"' + variables.leaseDuration + '\": it must be whole seconds from 2s to 3600s'"
- unless: |-
    variables.alive == 'none' || variables.evidence.all(e, size(e) <= 1000 && e.matches(r"^{{ include "leasehold-injector.evidence" . }}$"))
  say: |-
    'leasehold.dev/alive is "' + variables.alive + '": it must be none, or one or more of lock, session, asking, http://127.0.0.1:PORT/PATH and tcp://127.0.0.1:PORT, separated by commas'
- unless: variables.shownEvidence.all(e, variables.shownEvidence.exists_one(other, other == e))
  say: |-
    'leasehold.dev/alive is "' + variables.alive + '": each may be given once, and what stands behind a "?" tells none apart'
- unless: "!variables.healthPorts.exists(p, p == variables.listenPort || p == variables.probePort && !variables.hostNetwork)"
  say: |-
    'leasehold.dev/alive is "' + variables.alive + '": port ' + variables.listenPort + ' or ' + variables.probePort + ' is the sidecar\'s own, and says nothing of the app'
- unless: variables.position in ['first', 'last']
  say: "'leasehold.dev/position is \"' + variables.position + '\": it must be first or last'"
- unless: variables.probes in ['http', 'exec']
  say: "'leasehold.dev/probes is \"' + variables.probes + '\": it must be http or exec'"
- unless: variables.roleLabel in ['true', 'false']
  say: "'leasehold.dev/role-label is \"' + variables.roleLabel + '\": it must be \"true\" or \"false\"'"
# A ReplicaSet that selects by it would lose its pods.
- unless: variables.roleLabel != 'true' || !('leasehold.dev/role' in variables.labels)
  say: "'the pod template has the label leasehold.dev/role, which the sidecar keeps: take it away there'"
- unless: variables.compat in ['none', 'nais']
  say: "'leasehold.dev/compat is \"' + variables.compat + '\": it must be none or nais'"
- unless: |-
    !('leasehold.dev/image' in variables.annotations) || {{ include "leasehold-injector.param" (dict "ctx" . "key" "allowedImages") }}.split(',').exists(allowed,
      allowed != '' && variables.image.startsWith(allowed)) && variables.image.matches('^[a-zA-Z0-9][-a-zA-Z0-9._/:@]*$')
  say: |-
    'leasehold.dev/image is "' + variables.image + '", and ' + ({{ include "leasehold-injector.param" (dict "ctx" . "key" "allowedImages") }} == ''
      ? 'pods may not choose the image here' : 'it must begin with one of ' + {{ include "leasehold-injector.param" (dict "ctx" . "key" "allowedImages") }})
{{- range $key, $annotation := dict "cpuRequest" "cpu-request" "memoryRequest" "memory-request" "cpuLimit" "cpu-limit" "memoryLimit" "memory-limit" }}
- unless: variables.{{ $key }} == '' || isQuantity(variables.{{ $key }}) && quantity(variables.{{ $key }}).isGreaterThan(quantity('0'))
  say: "'leasehold.dev/{{ $annotation }} is \"' + variables.{{ $key }} + '\": it must be a quantity, or empty for none'"
{{- end }}
- unless: variables.listen == 'unix' || variables.listenPort.matches('^[1-9][0-9]{0,4}$') && int(variables.listenPort) < 65536
  say: "'leasehold.dev/listen is \"' + variables.listen + '\": it must be localhost:PORT or unix'"
- unless: variables.probePort.matches('^[1-9][0-9]{0,4}$') && int(variables.probePort) < 65536 && variables.probePort != variables.listenPort
  say: "'leasehold.dev/probe-port is \"' + variables.probePort + '\": it must be a port, and another than the app asks on'"
- unless: variables.hostNetwork || !object.spec.containers.exists(c, c.?ports.orValue([]).exists(p, string(p.containerPort) in [variables.listenPort, variables.probePort]))
  say: |-
    'the app has port ' + variables.listenPort + ' or ' + variables.probePort + ', which the sidecar listens on: choose others by leasehold.dev/listen and leasehold.dev/probe-port'
- unless: "!variables.hostNetwork || variables.listen == 'unix'"
  say: "'with hostNetwork the sidecar would listen on the node, where other pods and the next sidecar meet it: set the annotation leasehold.dev/listen to unix'"
- unless: variables.compat != 'nais' || variables.listen != 'unix'
  say: "'leasehold.dev/compat is nais, and those apps ask a port: leasehold.dev/listen cannot be unix'"
- unless: variables.containers.all(name, variables.asking.exists(c, c.name == name))
  say: |-
    'leasehold.dev/containers names ' + variables.containers.filter(name, !variables.asking.exists(c, c.name == name)).join(', ') + ', and the pod has no such container'
# It mounts a directory that the sidecar makes.
- unless: variables.position == 'first' || !variables.initContainers.exists(c, c.name in variables.containers)
  say: "'leasehold.dev/containers names an init container, which would run before the sidecar: set the annotation leasehold.dev/position to first'"
- unless: "!(object.spec.containers + variables.initContainers).exists(c, c.name == 'leasehold' && c.?restartPolicy.orValue('') != 'Always')"
  say: "'a container of this pod is called leasehold and is no native sidecar (an init container with restartPolicy Always): rename it, or take the label leasehold.dev/inject away'"
- unless: "!object.spec.?volumes.orValue([]).exists(v, v.name in ['leasehold', 'leasehold-state', 'leasehold-token'])"
  say: |-
    'the pod has a volume ' + object.spec.?volumes.orValue([]).map(v, v.name).filter(name, name in ['leasehold', 'leasehold-state', 'leasehold-token']).join(', ') +
      ' of its own, which is the name of one of the sidecar\'s: rename it'
- unless: "!variables.asking.exists(c, c.?volumeMounts.orValue([]).exists(m, m.mountPath == '/run/leasehold' || m.mountPath.startsWith('/run/leasehold/')))"
  say: "'a container of this pod mounts something at /run/leasehold, where the report is mounted: choose another path'"
- unless: "!variables.asking.exists(c, c.?env.orValue([]).exists(e, variables.env.exists(ours, ours.name == e.name)))"
  say: |-
    'a container of this pod has ' + variables.env.map(ours, ours.name).filter(name, variables.asking.exists(c, c.?env.orValue([]).exists(e, e.name == name))).join(', ') +
      ' in its env, which the injection sets: take it away'
- unless: |-
    variables.extraArgs.all(a, a.matches('^--[a-z]') && !(a.split('=')[0] in {{ include "leasehold-injector.ownFlags" . }}))
  say: |-
    'leasehold.dev/args is "' + variables.args + '": flags of leasehold run, separated by spaces, and none of ' + {{ include "leasehold-injector.ownFlags" . }}.join(', ') + ': annotations or the injection set those'
{{- end }}

{{/* The rules of the library chart, with an empty renew interval for the sidecar's own default, a quarter. */}}
{{- define "leasehold-injector.memberFaults" }}
- unless: |-
    !('leasehold.dev/member-of' in variables.annotations) ||
      size(variables.memberOf) <= 63 && variables.memberOf.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')
  say: |-
    'leasehold.dev/member-of is "' + variables.memberOf + '": it must be the name of a group, at most 63 lower-case letters, digits, "-" and "." between them'
- unless: "variables.memberOf != '' || !variables.annotations.exists(key, key in ['leasehold.dev/member-lease-duration', 'leasehold.dev/member-renew-interval', 'leasehold.dev/member-annotations'])"
  say: "'annotations leasehold.dev/member-... need leasehold.dev/member-of'"
- unless: variables.memberOf == '' || variables.memberSeconds >= 3 && variables.memberSeconds <= 86400
  say: "'leasehold.dev/member-lease-duration is \"' + variables.memberDuration + '\": it must be whole seconds from 3s to 86400s'"
- unless: |-
    variables.memberOf == '' || variables.memberSeconds == 0 || (variables.memberInterval == '' ? variables.memberSeconds >= 4 :
      variables.memberInterval.matches('^[1-9][0-9]{0,4}s$') && int(variables.memberInterval.replace('s', '')) * 2 <= variables.memberSeconds)
  say: |-
    'leasehold.dev/member-renew-interval is "' + variables.memberInterval + '": it must be whole seconds, from 1s to half of the member lease duration; left out it is a quarter of that, which is 4s at least then'
- unless: |-
    variables.memberPairs.all(pair, pair.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?=') &&
      size(pair.split('=')[0].split('/')[0]) <= 253 && variables.memberPairs.exists_one(other, other.split('=')[0] == pair.split('=')[0]))
  say: |-
    'leasehold.dev/member-annotations is "' + variables.memberPairs.join(',') + '": it must be KEY=VALUE, several separated by commas, with the keys of annotations, each once'
- unless: "variables.memberPairs.all(pair, !pair.startsWith('leasehold.dev/'))"
  say: "'leasehold.dev/member-annotations has keys that begin with leasehold.dev/, which are kept for the sidecar'"
- unless: size(variables.memberPairs.join('')) <= 65536
  say: "'leasehold.dev/member-annotations is longer than 64 KiB: each member keeps those of all'"
- unless: variables.memberOf == '' || !('members' in variables.leases)
  say: "'leasehold.dev/lease is \"' + variables.leases.join(',') + '\": no Lease of a member may be named members, for members.json speaks of the members'"
- unless: "!variables.memberOnly || variables.roleLabel != 'true'"
  say: "'leasehold.dev/role-label is \"true\", and with an empty leasehold.dev/lease no pod is leader or standby'"
{{- end }}

{{- define "leasehold-injector.annotations" -}}
[
{{- range $index, $name := list "alive" "args" "compat" "containers" "cpu-limit" "cpu-request" "image" "injected" "lease" "lease-duration" "listen" "member-annotations" "member-lease-duration" "member-of" "member-renew-interval" "memory-limit" "memory-request" "position" "probe-port" "probes" "role-label" "timing" -}}
{{ if $index }}, {{ end }}'leasehold.dev/{{ $name }}'
{{- end -}}
]
{{- end }}

{{/* Flags that leasehold.dev/args may not repeat, by all their names. values.schema.json has the same. */}}
{{- define "leasehold-injector.ownFlags" -}}
['--lease', '--election', '--lease-duration', '--ttl', '--member-of', '--member-lease-duration', '--member-renew-interval', '--member-annotation', '--app-alive', '--listen', '--http', '--probe-listen', '--report-dir', '--state-dir', '--role-label', '--pod-name', '--namespace', '--election-namespace', '--kubeconfig', '--context', '--end-with-parent', '--help']
{{- end }}

{{/* What `--app-alive` takes, as the library chart knows it but for $(POD_IP): nothing sets that here. */}}
{{- define "leasehold-injector.evidence" -}}
{{- $octet := "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])" -}}
{{- $host := printf "(localhost|127([.]%s){3}|\\[::1\\])" $octet -}}
{{- $port := "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])" -}}
(lock|session|asking|tcp://{{ $host }}:{{ $port }}|http://{{ $host }}:{{ $port }}([/?][A-Za-z0-9._~%!$&'()*+;=:@/?-]*)?)
{{- end }}

{{/* The sentences of what is wrong, as a list. */}}
{{- define "leasehold-injector.faultList" -}}
{{- $faults := include "leasehold-injector.faults" . | fromYamlArray -}}
{{- range $index, $fault := $faults -}}
{{ if $index }} +
{{ end }}({{ $fault.unless }} ? [] : [{{ $fault.say }}])
{{- end -}}
{{- end }}

{{- define "leasehold-injector.validations" -}}
- expression: variables.labels['leasehold.dev/inject'] in ['true', 'false']
  messageExpression: "'the label leasehold.dev/inject is \"' + variables.labels['leasehold.dev/inject'] + '\": it must be \"true\" or \"false\"'"
- expression: variables.labels['leasehold.dev/inject'] != 'true' || variables.injected || variables.faults.size() == 0
  messageExpression: "'the leasehold sidecar cannot be injected: ' + variables.faults.join('; ')"
{{- if eq .Values.injection.failurePolicy "Fail" }}
- expression: variables.labels['leasehold.dev/inject'] != 'true' || variables.injected
  message: the leasehold sidecar was not injected, though nothing speaks against it; a policy that was just installed takes a moment to be in force, so try again
{{- end }}
{{- end }}
