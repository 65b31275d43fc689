#!/usr/bin/env bash
# A client for trio-msg in bash, with nc (OpenBSD's) and jq.
#
#   msg.sh send QUEUE JSON            prints the message id once the message is on disk
#   msg.sh pub TOPIC JSON             the same for a topic
#   msg.sh get QUEUE                  takes one message; exit 1 when there is none
#   msg.sh sub TOPIC [COUNT]          prints what is published, for ever or COUNT messages
#   msg.sh work QUEUE COMMAND…        runs COMMAND for each message, its body on stdin: exit 0 acks,
#                                     anything else has it come again
#
# MSG_HOST and MSG_PORT say where the broker is (localhost, 8888).
set -euo pipefail

connect() { # one nc for the whole conversation: fd "to" to the broker, fd "from" from it
    coproc NC { exec nc -N "${MSG_HOST:-localhost}" "${MSG_PORT:-8888}"; }
    exec {from}<&"${NC[0]}" {to}>&"${NC[1]}"
    eval "exec ${NC[1]}>&-" # so that closing "to" is the end for nc, and nc's for the broker
}

say() { # a frame from jq's arguments
    jq -cn "$@" >&"$to"
}

hear() { # the next frame, in $frame; an error ends us
    IFS= read -r frame <&"$from" || { echo "the broker closed the connection" >&2; exit 69; }
    if [ "$(jq -r .type <<<"$frame")" = error ]; then
        jq -r '"\(.code): \(.error)"' <<<"$frame" >&2
        exit 65
    fi
}

publish() { # mode, name, body
    connect
    say --arg mode "$1" --arg topic "$2" --argjson message "$3" \
        '{action: "publish", mode: $mode, topic: $topic, message: $message, id: "1"}'
    hear
    jq -r .message_id <<<"$frame"
}

get() { # queue
    connect
    say --arg topic "$1" '{action: "get", topic: $topic, id: "1"}'
    hear
    [ "$(jq -r .type <<<"$frame")" = message ] || exit 1 # "got", and its count is 0
    jq -c .message <<<"$frame"
    settle ack "$frame"
}

settle() { # ack or nack, message, reason; waits until it is kept
    say --arg action "$1" --arg reason "${3:-}" --argjson tag "$(jq .tag <<<"$2")" \
        '{action: $action, tag: $tag, id: "s"} + (if $reason == "" then {} else {reason: $reason} end)'
    until hear && [ "$(jq -r .id <<<"$frame")" = s ]; do :; done
}

subscribe() { # topic, count
    connect
    say --arg topic "$1" '{action: "subscribe", topic: $topic, id: "1"}'
    local left=${2:--1}
    while [ "$left" -ne 0 ]; do
        hear
        [ "$(jq -r .type <<<"$frame")" = message ] || continue
        jq -c .message <<<"$frame"
        left=$((left - 1))
    done
}

work() { # queue, command…
    local queue=$1 message code
    shift
    connect
    # one at a time: what comes next is the answer to "settle", or the next message
    say --arg topic "$queue" '{action: "subscribe", mode: "queue", topic: $topic, prefetch: 1}'
    while :; do
        hear
        [ "$(jq -r .type <<<"$frame")" = message ] || continue
        message=$frame code=0
        jq -c .message <<<"$message" | "$@" || code=$?
        if [ "$code" -eq 0 ]; then
            say --argjson tag "$(jq .tag <<<"$message")" '{action: "ack", tag: $tag}'
        else
            say --argjson tag "$(jq .tag <<<"$message")" --arg reason "$1 left with $code" \
                '{action: "nack", tag: $tag, reason: $reason}'
        fi
    done
}

command=${1:-help}
[ "$#" -eq 0 ] || shift
case $command in
send) publish queue "$@" ;;
pub) publish pubsub "$@" ;;
get) get "$@" ;;
sub) subscribe "$@" ;;
work) work "$@" ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 64 ;;
esac
