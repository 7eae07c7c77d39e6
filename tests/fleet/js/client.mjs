// Several matrix-js-sdk clients in one process, controlled by lines of JSON.
//
// in:  {"id": 1, "user": "name", "op": "send", ...arguments}
// out: {"id": 1, "result": ...} or {"id": 1, "error": {"errcode", "status", "message"}}
//
// The clients use the sdk's own /sync loop, store and scrollback. A raw request is made only to send one transaction id
// twice, which the sdk does not offer.

import { createInterface } from "node:readline";

// Standard output carries answers only.
console.log = console.info = console.debug = console.trace = console.error;

const sdk = await import("matrix-js-sdk");
const { logger } = await import("matrix-js-sdk/lib/logger.js");
logger.setLevel?.("error");

const SCROLLBACK_EVENTS = 100;
const clients = new Map();

class Client {
    constructor(url) {
        this.url = url;
        this.delivered = new Map(); // event id -> number of /sync timelines that had it
        this.decrypted = new Map(); // event id -> [event, error] of the latest attempt to decrypt it
        this.claimed = []; // [user, device, key id] of every one-time key that this client received
        this.sdk = sdk.createClient({ baseUrl: url });
    }

    async register({ username, password }) {
        const answer = await this.sdk.registerRequest({ username, password, auth: { type: "m.login.dummy" } });
        this.use(answer);
        return answer.user_id;
    }

    async login({ username, password }) {
        const identifier = { type: "m.id.user", user: username };
        const answer = await this.sdk.loginRequest({ type: "m.login.password", identifier, password });
        this.use(answer);
        return answer.user_id;
    }

    use({ user_id, access_token, device_id }) {
        this.sdk = sdk.createClient({
            baseUrl: this.url,
            userId: user_id,
            accessToken: access_token,
            deviceId: device_id,
            store: new sdk.MemoryStore(),
            fetchFn: (url, options) => this.fetch(url, options),
        });
    }

    // The sdk silently drops an event that it knows, so duplicates are visible only here.
    async fetch(url, options) {
        const response = await fetch(url, options);
        if (new URL(url).pathname.endsWith("/keys/claim") && response.status === 200) return this.note_claims(response);
        if (!new URL(url).pathname.endsWith("/sync") || response.status !== 200) return response;
        const text = await response.text();
        const answer = JSON.parse(text);
        if (answer.pos) this.note_window(answer.rooms);
        const { join = {}, leave = {} } = answer.rooms ?? {};
        for (const room of [...Object.values(join), ...Object.values(leave)]) {
            for (const event of room.timeline?.events ?? []) {
                this.delivered.set(event.event_id, (this.delivered.get(event.event_id) ?? 0) + 1);
            }
        }
        return new Response(text, { status: 200, headers: response.headers });
    }

    // In sliding sync, a room that is new, limited or expanded may repeat events.
    note_window(rooms) {
        for (const room of Object.values(rooms)) {
            if (room.initial || room.limited) continue;
            for (const event of room.timeline ?? []) {
                this.delivered.set(event.event_id, (this.delivered.get(event.event_id) ?? 0) + 1);
            }
        }
    }

    // Start with sliding sync in its deployed form. lists: name -> list, as the sdk takes them.
    async start_sliding({ lists, subscription, encrypted = false }) {
        if (encrypted) await this.begin_crypto();
        const { SlidingSync } = await import("matrix-js-sdk/lib/sliding-sync.js");
        const named = new Map(Object.entries(lists));
        this.sliding = new SlidingSync(this.url, named, subscription, this.sdk, 20000);
        const prepared = new Promise((resolve) => {
            this.sdk.on("sync", (state) => state === "PREPARED" && resolve());
        });
        await this.sdk.startClient({
            slidingSync: this.sliding,
            pendingEventOrdering: sdk.PendingEventOrdering.Detached,
        });
        await prepared;
    }

    set_ranges({ list, ranges }) {
        this.sliding.setListRanges(list, ranges);
    }

    subscribe({ rooms }) {
        this.sliding.modifyRoomSubscriptions(new Set(rooms));
    }

    // Return the rooms as a room list shows them, latest activity first.
    room_list() {
        const rooms = this.sdk.getRooms().sort((one, other) => other.getBumpStamp() - one.getBumpStamp());
        return rooms.map((room) => ({ room_id: room.roomId, name: room.name, count: room.getUnreadNotificationCount() }));
    }

    async wait_event({ room, event, timeout_s }) {
        await until(() => this.sdk.getRoom(room)?.findEventById(event), timeout_s);
    }

    async begin_crypto() {
        await this.sdk.initRustCrypto({ useIndexedDB: false });
        this.sdk.on("Event.decrypted", (event, error) => this.decrypted.set(event.getId(), [event, error]));
    }

    // encrypted: use the sdk's Rust crypto, with its store in memory.
    async start({ timeline_limit, encrypted = false }) {
        if (encrypted) await this.begin_crypto();
        const prepared = new Promise((resolve) => {
            this.sdk.on("sync", (state) => state === "PREPARED" && resolve());
        });
        const limited = { room: { timeline: { limit: timeline_limit } } };
        await this.sdk.startClient({
            initialSyncLimit: timeline_limit,
            filter: sdk.Filter.fromJson(this.sdk.getUserId(), undefined, limited), // of all later syncs
            pendingEventOrdering: sdk.PendingEventOrdering.Detached, // no local echo among the server's events
            pollTimeout: 20000,
        });
        await prepared;
    }

    stop() {
        this.sdk.stopClient();
    }

    async note_claims(response) {
        const text = await response.text();
        for (const [user, devices] of Object.entries(JSON.parse(text).one_time_keys ?? {})) {
            for (const [device, keys] of Object.entries(devices)) {
                for (const [id, key] of Object.entries(keys)) {
                    if (!key.fallback) this.claimed.push([user, device, id]);
                }
            }
        }
        return new Response(text, { status: 200, headers: response.headers });
    }

    claims() {
        return this.claimed;
    }

    device() {
        return this.sdk.getDeviceId();
    }

    async logout() {
        await this.sdk.logout(true);
    }

    // Return the text of an encrypted event when the sdk has decrypted it.
    async wait_decrypted({ event, timeout_s }) {
        const found = () => {
            const [known, error] = this.decrypted.get(event) ?? [];
            return known && !error && !known.isDecryptionFailure() ? known : null;
        };
        try {
            return (await until(found, timeout_s)).getContent().body;
        } catch (error) {
            throw new Error(`${error.message}; decrypting said: ${this.decrypted.get(event)?.[1]}`);
        }
    }

    // Make the next message in the room begin a new Megolm session.
    async forget_session({ room }) {
        await this.sdk.getCrypto().forceDiscardSession(room);
    }

    // Wait until this client knows a user's device, or knows that it is gone.
    async wait_device({ whose, device, known, timeout_s }) {
        const crypto = this.sdk.getCrypto();
        const has = async () => (await crypto.getUserDeviceInfo([whose], true)).get(whose)?.has(device) ?? false;
        await until(async () => (await has()) === known, timeout_s);
    }

    async create_room({ options }) {
        return (await this.sdk.createRoom(options)).room_id;
    }

    async join({ room }) {
        return (await this.sdk.joinRoom(room)).roomId;
    }

    async leave({ room }) {
        await this.sdk.leave(room);
    }

    async forget({ room }) {
        await this.sdk.forget(room);
    }

    async invite({ room, invitee }) {
        await this.sdk.invite(room, invitee);
    }

    async send({ room, content, transaction_id }) {
        return (await this.sdk.sendEvent(room, null, "m.room.message", content, transaction_id)).event_id;
    }

    async send_again({ room, content, transaction_id }) {
        const path = ["rooms", room, "send", "m.room.message", transaction_id].map(encodeURIComponent).join("/");
        return (await this.sdk.http.authedRequest("PUT", `/${path}`, undefined, content)).event_id;
    }

    async set_state({ room, type, content }) {
        return (await this.sdk.sendStateEvent(room, type, content, "")).event_id;
    }

    async redact({ room, event }) {
        return (await this.sdk.redactEvent(room, event)).event_id;
    }

    async set_typing({ room, typing }) {
        await this.sdk.sendTyping(room, typing, 30000);
    }

    async send_receipt({ room, event }) {
        await this.sdk.sendReadReceipt(await until(() => this.sdk.getRoom(room)?.findEventById(event), 20));
    }

    async joined_rooms() {
        return (await this.sdk.getJoinedRooms()).joined_rooms;
    }

    async wait_membership({ room, membership, timeout_s }) {
        await until(() => (this.sdk.getRoom(room)?.getMyMembership() ?? null) === membership, timeout_s);
    }

    async wait_typing({ room, typist, typing, timeout_s }) {
        await until(() => (this.sdk.getRoom(room)?.getMember(typist)?.typing ?? false) === typing, timeout_s);
    }

    async view({ rooms }) {
        const seen = {};
        for (const id of rooms) {
            const room = this.sdk.getRoom(id);
            seen[id] = room && (await roomView(this.sdk, room));
        }
        const doubled = [...this.delivered].filter(([, count]) => count > 1).map(([event]) => event);
        return { rooms: seen, doubled };
    }
}

async function roomView(client, room) {
    if (room.getMyMembership() === "join") {
        while (room.oldState.paginationToken !== null) await client.scrollback(room, SCROLLBACK_EVENTS);
    }
    const members = room.getMembers();
    return {
        membership: room.getMyMembership(),
        events: room.getLiveTimeline().getEvents().map((event) => ({
            event_id: event.getId(),
            sender: event.getSender(),
            type: event.getType(),
            body: event.isRedacted() ? null : (event.getContent().body ?? null),
        })),
        members: Object.fromEntries(members.map((member) => [member.userId, member.membership])),
        name: room.currentState.getStateEvents("m.room.name", "")?.getContent().name ?? null,
        topic: room.currentState.getStateEvents("m.room.topic", "")?.getContent().topic ?? null,
        // "true": leave out receipts that the sdk derives from sent events
        receipts: Object.fromEntries(
            members.map(({ userId }) => [userId, room.getReadReceiptForUserId(userId, true)?.eventId ?? null]),
        ),
    };
}

async function until(condition, timeout_s) {
    const end = Date.now() + timeout_s * 1000;
    for (;;) {
        const value = await condition();
        if (value) return value;
        if (Date.now() > end) throw new Error(`did not happen within ${timeout_s} s: ${condition}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
}

async function answer({ id, user, op, ...options }) {
    try {
        if (op === "create") {
            clients.set(user, new Client(options.url));
            return { id, result: process.version };
        }
        return { id, result: (await clients.get(user)[op](options)) ?? null };
    } catch (error) {
        const { errcode = null, httpStatus = null } = error;
        return { id, error: { errcode, status: httpStatus, message: `${op}: ${error.stack ?? error}` } };
    }
}

const lines = createInterface({ input: process.stdin });
lines.on("line", async (line) => {
    process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`);
});
// The sdk leaves timers running.
lines.on("close", () => process.exit(0));
