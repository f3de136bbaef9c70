{{/*
The Lease, where lease.create asks for it. Without a spec: what the sidecar writes there is nobody else's, so no upgrade
touches it. It is kept when the release goes, as one that the sidecar makes is: fencing tokens go on growing from it.
*/}}
{{- define "leasehold.lease" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- if and $v.lease.create $v.lease.enabled -}}
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  name: {{ .lease | quote }}
  namespace: {{ .ctx.Release.Namespace | quote }}
  labels:
    {{- include "leasehold.labels" . | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
{{- end -}}
{{- end -}}
