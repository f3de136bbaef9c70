{{/* What is done to a pod, as one JSON patch: all of it or nothing. */}}

{{/* Names that only the patch needs. */}}
{{- define "leasehold-injector.mutationVariables" -}}
# On the host's network no port is free for certain: the probes come by a socket, too.
- name: probeListen
  expression: |-
    variables.hostNetwork ? ['--probe-listen=unix:/var/lib/leasehold/probe.sock'] :
    variables.probePort == '4041' ? [] : ['--probe-listen=[::]:' + variables.probePort]
- name: execProbes
  expression: variables.hostNetwork || variables.probes == 'exec'
# The sidecar's end must fit into the pod's; it is told of it when the app has ended.
- name: shutdownGrace
  expression: |-
    variables.extraArgs.exists(a, a.startsWith('--shutdown-grace=')) || object.spec.?terminationGracePeriodSeconds.orValue(30) >= 27 ? [] :
    object.spec.terminationGracePeriodSeconds < 5 ? ['--shutdown-grace=3s'] :
    ['--shutdown-grace=' + string(object.spec.terminationGracePeriodSeconds - 2) + 's']
- name: memberArgs
  expression: |-
    variables.memberOf == '' ? [] : ['--member-of=' + variables.memberOf] +
      ('leasehold.dev/member-lease-duration' in variables.annotations ? ['--member-lease-duration=' + variables.memberDuration] : []) +
      (variables.memberInterval == '' ? [] : ['--member-renew-interval=' + variables.memberInterval]) +
      variables.memberPairs.map(pair, '--member-annotation=' + pair)
- name: runArgs
  expression: |-
    ['run'] + (variables.memberOnly ? [] : ['--lease=' + variables.leases.join(','), '--lease-duration=' + variables.leaseDuration]) +
    variables.memberArgs +
    (variables.alive == 'none' ? [] : variables.alive.split(',').map(e, '--app-alive=' + e)) +
    (variables.listen == 'unix' ? ['--listen=unix:/run/leasehold/leasehold.sock'] : variables.listenPort == '4040' ? [] : ['--listen=' + variables.listen]) +
    variables.probeListen +
    (variables.roleLabel == 'true' ? ['--role-label'] : []) +
    variables.shutdownGrace + variables.extraArgs
# The sidecar would inherit root, and then not be started.
- name: asRoot
  expression: object.spec.?securityContext.?runAsUser.orValue(1) == 0
{{- end }}

{{- define "leasehold-injector.patches" -}}
{{- $http := include "leasehold-injector.httpProbes" . | fromYaml -}}
{{- $exec := include "leasehold-injector.execProbes" (dict
  "startup" "cel:['/leasehold', 'probe', 'startup'] + variables.probeListen"
  "ready" "cel:['/leasehold', 'probe', 'ready'] + variables.probeListen") | fromYaml -}}
{{- $security := include "leasehold-injector.securityContext" . | fromYaml -}}
{{- $port := list (dict "name" "leasehold" "containerPort" "cel:int(variables.probePort)") -}}
{{- $env := include "leasehold-injector.sidecarEnv" . | fromYamlArray -}}
{{- /* For the members to know who is of the newest template. */ -}}
{{- $revision := dict "name" "POD_TEMPLATE_HASH" "valueFrom" (dict "fieldRef" (dict "fieldPath" "cel:\"metadata.labels['\" + variables.revisionLabel + \"']\"")) -}}
{{- $sidecar := include "leasehold-injector.sidecar" (dict "v" (dict
  "image" "cel:variables.image"
  "imagePullPolicy" (printf "cel:%s" (include "leasehold-injector.param" (dict "ctx" . "key" "imagePullPolicy")))
  "args" "cel:variables.runArgs"
  "env" (dict "cel:if" "variables.memberOf == ''" "then" $env "else" (append $env $revision))
  "ports" (dict "cel:if" "variables.hostNetwork" "then" list "else" $port)
  "startupProbe" (dict "cel:if" "variables.execProbes" "then" $exec.startupProbe "else" $http.startupProbe)
  "readinessProbe" (dict "cel:if" "variables.execProbes" "then" $exec.readinessProbe "else" $http.readinessProbe)
  "securityContext" (dict "cel:if" "variables.asRoot" "then" (merge (dict "runAsUser" 65532 "runAsGroup" 65532) $security) "else" $security)
  "resources" (dict
    "requests" (dict "cpu" "cel:variables.cpuRequest" "memory" "cel:variables.memoryRequest")
    "limits" (dict "cpu" "cel:variables.cpuLimit" "memory" "cel:variables.memoryLimit"))
  )) | fromYaml -}}
variables.injected || variables.faults.size() > 0 ? [] :
{{- range $list := list "containers" "initContainers" }}
object.spec.?{{ $list }}.orValue([]).transformList(index, c, c.name in variables.containers,
  (has(c.env) ? [] : [JSONPatch{op: "add", path: "/spec/{{ $list }}/" + string(index) + "/env", value: []}]) +
  variables.env.map(e, JSONPatch{op: "add", path: "/spec/{{ $list }}/" + string(index) + "/env/-", value: e}) +
  (has(c.volumeMounts) ? [] : [JSONPatch{op: "add", path: "/spec/{{ $list }}/" + string(index) + "/volumeMounts", value: []}]) +
  [JSONPatch{op: "add", path: "/spec/{{ $list }}/" + string(index) + "/volumeMounts/-", value: {{ include "leasehold-injector.cel" (dict "type" "Object.spec.containers.volumeMounts" "value" (include "leasehold-injector.appMount" . | fromYaml) "pad" 4) }}}]
).flatten() +
{{- end }}
(has(object.spec.volumes) ? [] : [JSONPatch{op: "add", path: "/spec/volumes", value: []}]) +
{{- range $volume := include "leasehold-injector.volumes" . | fromYamlArray }}
[JSONPatch{op: "add", path: "/spec/volumes/-", value: {{ include "leasehold-injector.cel" (dict "type" "Object.spec.volumes" "value" $volume "pad" 2) }}}] +
{{- end }}
{{- $secrets := include "leasehold-injector.param" (dict "ctx" . "key" "imagePullSecrets") }}
(has(object.spec.imagePullSecrets) || {{ $secrets }} == '' ? [] : [JSONPatch{op: "add", path: "/spec/imagePullSecrets", value: []}]) +
{{ $secrets }}.split(',').filter(name, name != '' && !object.spec.?imagePullSecrets.orValue([]).exists(s, s.name == name)).map(name,
  JSONPatch{op: "add", path: "/spec/imagePullSecrets/-", value: Object.spec.imagePullSecrets{name: name}}) +
(has(object.metadata.annotations) ? [] : [JSONPatch{op: "add", path: "/metadata/annotations", value: {}}]) +
[JSONPatch{op: "add", path: "/metadata/annotations/leasehold.dev~1injected", value: {{ .Chart.AppVersion | quote }}}] +
(has(object.spec.initContainers) ? [] : [JSONPatch{op: "add", path: "/spec/initContainers", value: []}]) +
[JSONPatch{op: "add", path: "/spec/initContainers/" + (variables.position == 'first' ? '0' : '-'), value: {{ include "leasehold-injector.cel" (dict "type" "Object.spec.initContainers" "value" $sidecar "pad" 2) }}}]
{{- end }}
