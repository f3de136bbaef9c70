{{/* What both policies know of a pod. Nothing here may fail, whatever the pod says. */}}

{{/* A setting: the pod's annotation, else the chart's value: (dict "ctx" $ "annotation" "timing" "key" "timing"). */}}
{{- define "leasehold-injector.setting" -}}
variables.annotations[?'leasehold.dev/{{ .annotation }}'].orValue({{ include "leasehold-injector.param" . }})
{{- end }}

{{- define "leasehold-injector.param" -}}
{{- if eq .ctx.Values.injection.engine "policy" -}}
params.data[?'{{ .key }}'].orValue('')
{{- else -}}
{{- index (include "leasehold-injector.settings" .ctx | fromYaml) .key | quote -}}
{{- end -}}
{{- end }}

{{- define "leasehold-injector.variables" -}}
- name: annotations
  expression: object.metadata.?annotations.orValue({})
- name: labels
  expression: object.metadata.?labels.orValue({})
- name: initContainers
  expression: object.spec.?initContainers.orValue([])
- name: injected
  expression: variables.initContainers.exists(c, c.name == 'leasehold' && c.?restartPolicy.orValue('') == 'Always')
{{- range $setting := list "timing" "alive" "position" "probes" "compat" "image" "args" }}
- name: {{ $setting }}
  expression: {{ include "leasehold-injector.setting" (dict "ctx" $ "annotation" $setting "key" $setting) }}
{{- end }}
- name: roleLabel
  expression: {{ include "leasehold-injector.setting" (dict "ctx" $ "annotation" "role-label" "key" "roleLabel") }}
{{- range $key, $annotation := dict "cpuRequest" "cpu-request" "memoryRequest" "memory-request" "cpuLimit" "cpu-limit" "memoryLimit" "memory-limit" }}
- name: {{ $key }}
  expression: {{ include "leasehold-injector.setting" (dict "ctx" $ "annotation" $annotation "key" $key) }}
{{- end }}
- name: owner
  expression: object.metadata.?ownerReferences.orValue([]).filter(o, o.?controller.orValue(false))
# What a Deployment, or Argo's Rollout, puts behind its own name for each template.
- name: templateHash
  expression: variables.labels[?'pod-template-hash'].orValue(variables.labels[?'rollouts-pod-template-hash'].orValue(''))
# Old and new pods of a rollout contend for the same Lease, so the template's hash is no part of its name.
- name: workload
  expression: |-
    variables.owner.size() != 1 || !variables.owner[0].apiVersion.startsWith('apps/') ? '' :
    variables.owner[0].kind == 'StatefulSet' ? variables.owner[0].name :
    variables.owner[0].kind == 'ReplicaSet' && variables.templateHash != '' && variables.owner[0].name.endsWith('-' + variables.templateHash) ?
      variables.owner[0].name.substring(0, size(variables.owner[0].name) - size(variables.templateHash) - 1) : ''
- name: memberOf
  expression: variables.annotations[?'leasehold.dev/member-of'].orValue('')
# An empty lease is none, which only a member can do without.
- name: memberOnly
  expression: variables.memberOf != '' && variables.annotations[?'leasehold.dev/lease'].orValue('none').trim() == ''
- name: memberDuration
  expression: variables.annotations[?'leasehold.dev/member-lease-duration'].orValue('40s')
- name: memberSeconds
  expression: "variables.memberDuration.matches('^[1-9][0-9]{0,4}s$') ? int(variables.memberDuration.replace('s', '')) : 0"
- name: memberInterval
  expression: variables.annotations[?'leasehold.dev/member-renew-interval'].orValue('')
- name: memberPairs
  expression: |-
    'leasehold.dev/member-annotations' in variables.annotations
      ? variables.annotations['leasehold.dev/member-annotations'].split(',').map(pair, pair.trim()) : []
# The label that tells of which template of its workload a pod is.
- name: revisionLabel
  expression: |-
    variables.owner.exists(o, o.kind in ['StatefulSet', 'DaemonSet']) ? 'controller-revision-hash' :
    'rollouts-pod-template-hash' in variables.labels ? 'rollouts-pod-template-hash' : 'pod-template-hash'
- name: leases
  expression: |-
    variables.memberOnly ? [] : 'leasehold.dev/lease' in variables.annotations ? variables.annotations['leasehold.dev/lease'].split(',').map(l, l.trim()) : [variables.workload]
- name: leaseDuration
  expression: |-
    variables.annotations[?'leasehold.dev/lease-duration'].orValue(
      variables.timing == 'calm' ? '60s' : variables.timing == 'fast' ? '5s' : '15s')
- name: hostNetwork
  expression: object.spec.?hostNetwork.orValue(false)
- name: listen
  expression: variables.annotations[?'leasehold.dev/listen'].orValue('localhost:4040')
- name: listenPort
  expression: "variables.listen.startsWith('localhost:') ? variables.listen.substring(10) : ''"
- name: probePort
  expression: variables.annotations[?'leasehold.dev/probe-port'].orValue('4041')
- name: evidence
  expression: "variables.alive.split(',')"
# As the sidecar shows it, and tells it apart: a query may hold what nobody is to see.
- name: shownEvidence
  expression: "variables.evidence.map(e, e.split('?')[0])"
# What stands behind the last ":" of each URL's "//ADDRESS:PORT".
- name: healthPorts
  expression: |-
    variables.shownEvidence.map(e, e.split('/')).filter(parts, size(parts) > 2)
      .map(parts, parts[2].substring(parts[2].lastIndexOf(':') + 1))
# The containers that ask.
- name: containers
  expression: |-
    'leasehold.dev/containers' in variables.annotations
      ? variables.annotations['leasehold.dev/containers'].split(',').map(c, c.trim())
      : object.spec.containers.map(c, c.name)
- name: asking
  expression: (object.spec.containers + variables.initContainers).filter(c, c.name in variables.containers)
- name: env
  expression: |-
    [{"name": "LEASEHOLD_FILE", "value": "/run/leasehold/status.json"}] +
    (variables.listen == 'unix' ? [{"name": "LEASEHOLD_SOCKET", "value": "/run/leasehold/leasehold.sock"}]
      : [{"name": "LEASEHOLD_URL", "value": "http://127.0.0.1:" + variables.listenPort}]) +
    (variables.compat != 'nais' ? [] : [
      {"name": "ELECTOR_PATH", "value": "localhost:" + variables.listenPort},
      {"name": "ELECTOR_GET_URL", "value": "http://localhost:" + variables.listenPort + "/"},
      {"name": "ELECTOR_SSE_URL", "value": "http://localhost:" + variables.listenPort + "/sse"}])
- name: extraArgs
  expression: variables.args.split(' ').filter(a, a != '')
- name: faults
  expression: |-
    {{- include "leasehold-injector.faultList" . | nindent 4 }}
{{- end }}
