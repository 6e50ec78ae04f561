#!/bin/sh
# MADE_BY
# Asks, and changes nothing. It runs before the package is unpacked, with essential programs alone; where the installed
# program works, that says what is in force (hand edits included) and looks at answers more closely.
# Called as `config refused QUESTION REASON` by postinst, it asks that one again; status 1 when nobody is there to ask.
set -e
# shellcheck source=/dev/null
. /usr/share/debconf/confmodule
db_version 2.0
db_capb backup
# name, kind (? after it: none is an answer), priority, when it is asked, default
# QUESTIONS BEGIN
package=
program=
questions=''
# QUESTIONS END
names=$(echo "$questions" | cut -d' ' -f1)

any_holds() ( # of the terms a=b or a!=b, with | between
    IFS='|'
    for term in $1; do
        key=${term%%=*}
        db_get "$package/${key%!}"
        case $key in
            *!) [ "$RET" = "${term#*=}" ] || exit 0 ;;
            *) [ "$RET" != "${term#*=}" ] || exit 0 ;;
        esac
    done
    exit 1
)
is_asked() ( # all of these conditions hold, which have commas between
    [ "$1" != - ] || exit 0
    IFS=,
    for condition in $1; do any_holds "$condition" || exit 1; done
)
default_of() {
    case $1 in
        @url)
            db_get "$package/port"
            url="https://$(hostname -f 2>/dev/null || uname -n):$RET"
            db_get "$package/tls"
            [ "$RET" != none ] || url=${url%:*}
            echo "${url%:443}" ;;
        -) ;;
        *) echo "$1" ;;
    esac
}
collected() {
    for each in $names; do
        db_get "$package/$each"
        [ -z "$RET" ] || printf '%s=%s\n' "$each" "$RET"
    done
}
reachable() { # one of these database hosts
    perl -MIO::Socket::IP -e 'for (split /[,\s]+/, shift) { my ($host, $port) = /^\[?(.*?)\]?(?::(\d+))?$/;
        exit 0 if IO::Socket::IP->new(PeerHost => $host, PeerPort => $port || 27017, Timeout => 3) } exit 1' "$1"
}
reason() { # why the answer $3 to question $1 of kind $2 cannot be; nothing if it can
    if [ -n "$printed" ]; then
        collected | "$program" setup --answers - --check "$1" 2>&1 >/dev/null | sed "s/^[^ ]*: $1: //"
        return
    fi
    case $2 in *\?) case $3 in '' | none) return ;; esac ;; esac
    case ${2%\?} in
        secret) return ;;
        port) { [ "$3" -ge 1 ] && [ "$3" -le 65535 ]; } 2>/dev/null || echo 'A port is a number from 1 to 65535.' ;;
        file | token-file) { [ -f "$3" ] && [ "${3#/}" != "$3" ]; } || echo 'There is no such file.' ;;
        url) expr "$3" : 'https\{0,1\}://[^/@ ]*' >/dev/null || echo 'It looks like https://host:port.' ;;
        mail) expr "$3" : '[^@ ]*@[^@ ]*' >/dev/null || echo 'A mail address looks like admin@example.org.' ;;
        hosts) reachable "$3" || echo 'No database can be reached there.' ;;
        duration) expr "$3" : '[1-9][0-9]*[mhdw]\{0,1\}$' >/dev/null || echo 'It is a number of minutes, or like 15m.' ;;
        fingerprint) expr "$(echo "$3" | tr -d ' :')" : '[0-9A-Fa-f]\{40\}$' >/dev/null || echo 'It has 40 digits.' ;;
    esac
}
refuse() { # the answer to question $1 because of $2
    db_subst "$package/refused" question "$1"
    db_subst "$package/refused" reason "$2"
    db_fset "$package/refused" seen false
    db_fset "$package/$1" seen false
    db_input critical "$package/refused" || true
    db_go || true
}

if [ "$1" = refused ]; then
    refuse "$2" "$3"
    db_input critical "$package/$2"
    db_go || true
    exit 0
fi

# What is in force counts, unless it is answers of a run before this one (there are two of them) that wait for postinst.
printed=$("$program" setup --print </dev/null 2>/dev/null) || printed=
db_get "$package/pending"
if [ -n "$printed" ] && { [ "$1" = reconfigure ] || [ "$RET" != true ]; }; then
    for each in $names; do
        value=$(echo "$printed" | sed -n "s/^$each=//p")
        [ -z "$value" ] || db_set "$package/$each" "$value"
    done
fi
# A machine that is installed already, but cannot say what is in force, keeps it.
if [ -n "$printed" ] || [ -z "$2" ]; then db_set "$package/pending" true; fi

step=1
back=
tries=9 # somebody may have gone without an answer: then postinst refuses
while row=$(echo "$questions" | sed -n "${step}p") && [ -n "$row" ]; do
    read -r name kind priority condition default <<END
$row
END
    shown=
    if is_asked "$condition"; then
        db_get "$package/$name"
        before=${RET:-$(default_of "$default")}
        db_set "$package/$name" "$before"
        if db_input "$priority" "$package/$name"; then shown=yes; fi
        if ! db_go; then # back to the question before this one
            step=${back##* }
            back=${back% *}
            [ -n "$step" ] || step=1
            continue
        fi
        # A bare Enter keeps what was there.
        db_get "$package/$name"
        answer=${RET:-$before}
        db_set "$package/$name" "$answer"
        if [ -n "$shown" ]; then
            why=$(reason "$name" "$kind" "$answer")
            if [ -n "$why" ] && [ "$tries" -gt 0 ]; then
                tries=$((tries - 1))
                refuse "$name" "$why"
                db_set "$package/$name" "$before"
                continue
            fi
            back="$back $step"
        fi
    fi
    step=$((step + 1))
done
