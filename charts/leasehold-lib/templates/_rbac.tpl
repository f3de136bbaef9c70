{{/* Role and RoleBinding: all that the sidecar may do. A whole manifest. */}}
{{- define "leasehold.rbac" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- if $v.rbac.create -}}
{{- $account := coalesce .serviceAccountName $v.serviceAccountName ((.ctx.Values.serviceAccount | default dict).name) -}}
{{- if not $account -}}
{{- fail "leasehold.rbac: whose rights? Give serviceAccountName beside ctx and lease, or the value serviceAccountName: the service account of your pods" -}}
{{- end -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: leasehold-{{ .lease }}
  namespace: {{ .ctx.Release.Namespace | quote }}
  labels:
    {{- include "leasehold.labels" . | nindent 4 }}
rules:
  {{- if $v.lease.enabled }}
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    resourceNames: [{{ .lease | quote }}]
    {{- if $v.lease.create }}
    verbs: [get, list, watch, update]
    {{- else }}
    verbs: [get, list, watch, create, update]
    {{- end }}
  {{- end }}
  {{- if $v.members.enabled }}
  {{- include "leasehold.memberRules" . | nindent 2 }}
  {{- end }}
  {{- if $v.events.enabled }}
  - apiGroups: [""]
    resources: [events]
    verbs: [create]
  {{- end }}
  {{- if $v.role.label }}
  - apiGroups: [""]
    resources: [pods]
    verbs: [patch]
  {{- if $v.role.guarded }}
  # Allows nothing: the policy of leasehold-injector knows by it whom to keep to the one label of the own pod.
  - apiGroups: [leasehold.dev]
    resources: [candidates]
    verbs: [label]
  {{- end }}
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: leasehold-{{ .lease }}
  namespace: {{ .ctx.Release.Namespace | quote }}
  labels:
    {{- include "leasehold.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: leasehold-{{ .lease }}
subjects:
  - kind: ServiceAccount
    name: {{ $account | quote }}
    namespace: {{ .ctx.Release.Namespace | quote }}
{{- end -}}
{{- end -}}

{{/*
What a member needs: every Lease of the namespace, for the names of members hash those of pods, and RBAC narrows no list
by labels. The marks allow nothing: the policy of leasehold-injector knows by them whom to keep to the own pod's Lease,
and which election's Lease is this workload's as well.
*/}}
{{- define "leasehold.memberRules" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, update, delete]
{{- if $v.members.guarded }}
- apiGroups: [leasehold.dev]
  resources: [candidates]
  verbs: [join]
{{- if $v.lease.enabled }}
- apiGroups: [leasehold.dev]
  resources: [candidates]
  resourceNames: [{{ .lease | quote }}]
  verbs: [campaign]
{{- end }}
{{- end }}
{{- end -}}
