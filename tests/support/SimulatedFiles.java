package difyexec;

import com.fasterxml.jackson.databind.ObjectMapper;
import difyexec.SimulatedExchange.Reply;

import module java.base;

import static difyexec.SimulatedJson.object;
import static java.nio.charset.StandardCharsets.*;

/// The files of the simulated server: uploads, and what it finds out about an address.
final class SimulatedFiles {
    /// That of each file among the outputs of runs.
    static final String CONTENT = "the content of a file";

    private final Map<String, Stored> stored = new ConcurrentHashMap<>();
    private final Predicate<URI> answers;
    private volatile boolean isOutput = false, hasScores = false;

    /// @param answers the server's own HEAD request to an address: false if it fails even when repeated
    SimulatedFiles(Predicate<URI> answers) {
        this.answers = answers;
    }

    record Stored(String id, String name, String type, int size, String user, long created) {
        String extension() {
            return SimulatedFiles.extension(name);
        }
    }

    /// A file for a variable: what the client sent, and what the server found out.
    private record LookUpResult(String kind, String method, String name, String type, long size, String url,
            String upload) {}

    private static String extension(String name) {
        int dot = name.lastIndexOf('.');
        return dot < 0 ? "" : name.substring(dot + 1).toLowerCase(Locale.ROOT);
    }

    private static String kindOf(String name) {
        return switch (extension(name)) {
            case "jpg", "jpeg", "png", "webp", "gif", "svg" -> "image";
            case "mp3", "m4a", "wav", "amr", "mpga" -> "audio";
            case "mp4", "mov", "mpeg", "webm" -> "video";
            case "txt", "markdown", "md", "mdx", "pdf", "html", "htm", "xlsx", "xls", "vtt", "properties", "doc",
                 "docx", "csv", "eml", "msg", "pptx", "ppt", "xml", "epub" -> "document";
            default -> "custom";
        };
    }

    // ── In the inputs of a run ──────────────────────────────────────────────────────────────────────────────────────

    Object one(SimulatedForm.Variable variable, Map<?, ?> given, String user, boolean worker) {
        var found = found(given, user, worker);
        var said = Objects.toString(given.get("type"), "");
        if (!said.isEmpty() && !said.equals("custom") && !said.equals(kindOf(found.name())))
            throw SimulatedForm.refusal("Detected file type does not match the specified type. Please verify the "
                    + "file.");
        return allowed(variable, found, worker);
    }

    /// Entries without a place are skipped silently.
    Object many(SimulatedForm.Variable variable, Collection<?> given, String user, boolean worker) {
        return given.stream().map(each -> (Map<?, ?>) each).filter(each -> each.get("transfer_method") != null)
                .filter(each -> !worker || !each.get("transfer_method").equals("remote_url") || each.get("url") != null)
                .map(each -> allowed(variable, found(each, user, worker), worker)).toList();
    }

    /// The files beside a question to an app without a workflow, which takes up to `most` images and documents.
    List<Map<String, Object>> beside(Object given, String user, boolean worker, int most) {
        if (most == 0 || !(given instanceof Collection<?> list)) return List.of();
        var rules = new ObjectMapper().createObjectNode();
        rules.putArray("allowed_file_types").add("image").add("document");
        rules.putArray("allowed_file_upload_methods").add("remote_url").add("local_file");
        var files = ((Collection<?>) many(new SimulatedForm.Variable("file-list", "files", false, rules),
                list, user, worker)).stream().map(each -> copy((Map<?, ?>) each)).toList();
        if (files.stream().filter(file -> file.get("type").equals("image")).count() > most)
            throw SimulatedForm.refusal("Number of image files exceeds the maximum limit " + most);
        if (files.size() > most) throw SimulatedForm.refusal("Number of files exceeds the maximum limit " + most);
        files.forEach(file -> file.put("id", UUID.randomUUID().toString()));
        return List.copyOf(files);
    }

    private static Map<String, Object> copy(Map<?, ?> file) {
        var copy = new LinkedHashMap<String, Object>();
        file.forEach((key, value) -> copy.put((String) key, value));
        return copy;
    }

    /// Such a file in the message that it belongs to.
    static Map<String, Object> inMessage(Map<String, Object> file) {
        return object("id", file.get("id"), "filename", file.get("filename"), "type", file.get("type"),
                "url", file.get("url"), "mime_type", file.get("mime_type"), "size", file.get("size"),
                "transfer_method", file.get("transfer_method"), "belongs_to", "user",
                "upload_file_id", file.get("related_id"));
    }

    /// And in the event that ends a stream.
    static Map<String, Object> atEnd(Map<String, Object> file) {
        return object("related_id", file.get("id"), "extension", file.get("extension"),
                "filename", file.get("filename"), "size", file.get("size"), "mime_type", file.get("mime_type"),
                "transfer_method", file.get("transfer_method"), "type", file.get("type"), "url", file.get("url"),
                "upload_file_id", file.get("related_id"), "remote_url", Objects.toString(file.get("remote_url"), ""));
    }

    private LookUpResult found(Map<?, ?> given, String user, boolean worker) {
        var method = Objects.toString(given.get("transfer_method"), "");
        var kind = Objects.toString(given.get("type"), "");
        return switch (method) {
            case "" -> throw SimulatedForm.refusal("transfer_method is required in file mapping");
            case "remote_url" -> remote(kind, Objects.toString(given.get("url"), ""));
            case "local_file" -> local(kind, Objects.toString(given.get("upload_file_id"), ""), user, worker);
            default -> throw SimulatedForm.refusal(worker
                    ? SimulatedForm.python(method) + " is not a valid FileTransferMethod"
                    : "No matching enum found for value " + SimulatedForm.python(method));
        };
    }

    private LookUpResult remote(String kind, String url) {
        if (url.isEmpty()) throw SimulatedForm.refusal("Invalid file url");
        var address = URI.create(url);
        if (address.getHost() == null || !answers.test(address))
            throw SimulatedForm.refusal("Reached maximum retries (3) for URL " + url);
        var name = address.getPath().substring(address.getPath().lastIndexOf('/') + 1);
        return new LookUpResult(kind, "remote_url", name, type(name), 21, url, null);
    }

    private LookUpResult local(String kind, String id, String user, boolean worker) {
        if (id.isEmpty()) throw SimulatedForm.refusal("Invalid upload file id");
        if (!isUuid(id)) throw SimulatedForm.refusal("Invalid upload file id format");
        var file = stored.get(id);
        if (file == null || worker && !file.user().equals(user)) throw SimulatedForm.refusal("Invalid upload file");
        return new LookUpResult(kind, "local_file", file.name(), file.type(), file.size(), "", id);
    }

    private static String type(String name) {
        return switch (extension(name)) {
            case "txt" -> "text/plain";
            case "mp3" -> "audio/mpeg";
            case "png" -> "image/png";
            case "pdf" -> "application/pdf";
            default -> "application/octet-stream";
        };
    }

    private Map<String, Object> allowed(SimulatedForm.Variable variable, LookUpResult file, boolean worker) {
        var kinds = variable.strings("allowed_file_types");
        var methods = variable.strings("allowed_file_upload_methods");
        boolean fits = kinds.contains(file.kind()) && (methods.isEmpty() || methods.contains(file.method()))
                && (!file.kind().equals("custom") || variable.strings("allowed_file_extensions").stream()
                        .anyMatch(each -> each.replaceFirst("^\\.", "").equalsIgnoreCase(extension(file.name()))));
        if (!fits) throw SimulatedForm.refusal("File validation failed for file: " + file.name());
        return value(file, worker);
    }

    /// As in the inputs and outputs of a run.
    private static Map<String, Object> value(LookUpResult file, boolean worker) {
        boolean local = file.upload() != null;
        var signed = local ? signed(file.upload()) : null;
        var value = object("dify_model_identity", "__dify__file__", "id", null);
        if (!worker) value.put("tenant_id", UUID.nameUUIDFromBytes(new byte[0]).toString());
        value.putAll(object("type", file.kind(), "transfer_method", file.method(),
                "remote_url", local ? worker ? "" : signed : file.url()));
        if (worker) value.put("reference", local ? "dify-file-ref:" + file.upload() : null);
        value.putAll(object("filename", file.name(), "extension", "." + extension(file.name()),
                "mime_type", file.type(), "size", file.size(), "related_id", file.upload(),
                "url", local ? signed : file.url()));
        return value;
    }

    void outputScores() {
        hasScores = true;
    }

    boolean hasScores() {
        return hasScores;
    }

    void outputFiles() {
        isOutput = true;
    }

    /// The file among the outputs of a run, if it has one. Its link is relative, as that of a Dify whose `FILES_URL` is
    /// empty.
    List<Object> output(String run, boolean worker) {
        if (!isOutput) return List.of();
        var file = value(new LookUpResult("document", "local_file", "output.txt", "text/plain", CONTENT.length(), "",
                run), worker);
        file.put("url", "/files/" + run + "/file-preview?timestamp=1&nonce=n&sign=s");
        return List.of(file);
    }

    /// The files among the values of inputs or outputs.
    static List<Object> among(Map<String, Object> values) {
        return values.values().stream().flatMap(value -> value instanceof Collection<?> list ? list.stream()
                        : Stream.ofNullable(value))
                .filter(value -> value instanceof Map<?, ?> map && map.containsKey("dify_model_identity")).toList();
    }

    static boolean isUuid(String text) {
        return text.matches("\\p{XDigit}{8}(-\\p{XDigit}{4}){3}-\\p{XDigit}{12}");
    }

    private static String signed(String id) {
        return "http://127.0.0.1:5001/files/" + id + "/file-preview?timestamp=1&nonce=n&sign=s";
    }

    // ── Uploads ─────────────────────────────────────────────────────────────────────────────────────────────────────

    private record Part(String field, String name, boolean isFile, String type, byte[] content) {}

    /// The answer of `POST /files/upload` to a request with this body.
    Reply upload(String contentType, byte[] body, boolean worker) {
        var parts = parts(contentType, body);
        var fields = parts.stream().filter(Part::isFile).map(Part::field).distinct().toList();
        var file = parts.stream().filter(Part::isFile).filter(part -> part.field().equals("file")).findFirst();
        if (file.isEmpty()) return error(400, "no_file_uploaded", "Please upload your file.");
        if (fields.size() > 1) return error(400, "too_many_files", "Only one file is allowed.");
        return refused(file.get(), worker).orElseGet(() -> taken(file.get(), parts.stream()
                .filter(part -> part.field().equals("user")).map(part -> new String(part.content(), UTF_8)).findFirst()
                .orElse("DEFAULT-USER"), worker));
    }

    private static Optional<Reply> refused(Part file, boolean worker) {
        if (file.name().isEmpty()) return Optional.of(error(400, "filename_not_exists_error",
                "The specified filename does not exist."));
        if (file.type().isEmpty()) return Optional.of(error(415, "unsupported_file_type", "File type not allowed."));
        if (file.name().matches(worker ? ".*[/\\\\].*" : ".*[/\\\\:*?\"<>|].*"))
            return Optional.of(error(400, "invalid_param", "Filename contains invalid characters"));
        long limit = switch (kindOf(file.name())) {
            case "image" -> 10;
            case "video" -> 100;
            case "audio" -> 50;
            default -> 15;
        };
        return file.content().length <= limit << 20 ? Optional.empty() : Optional.of(error(413, "file_too_large",
                worker ? "" : "File size exceeded. {message}"));
    }

    private Reply taken(Part part, String user, boolean worker) {
        var file = new Stored(UUID.randomUUID().toString(), part.name(), part.type(), part.content().length, user,
                Instant.now().getEpochSecond());
        stored.put(file.id(), file);
        var answer = object("id", file.id());
        if (worker) answer.put("reference", null);
        answer.putAll(object("name", file.name(), "size", file.size(), "extension", file.extension(),
                "mime_type", file.type(), "created_by", UUID.nameUUIDFromBytes(user.getBytes(UTF_8)).toString(),
                "created_at", file.created(), "preview_url", null, "source_url", signed(file.id())));
        if (worker) answer.putAll(object("original_url", null, "user_id", null,
                "tenant_id", UUID.nameUUIDFromBytes(new byte[0]).toString(), "conversation_id", null,
                "file_key", null));
        return Reply.of(201, answer);
    }

    private static Reply error(int status, String code, String message) {
        return Reply.error(status, code, message);
    }

    private static List<Part> parts(String contentType, byte[] body) {
        var match = Pattern.compile("multipart/form-data;.*boundary=\"?([^\";]+).*").matcher(contentType);
        if (!match.matches()) return List.of();
        var text = "\r\n" + new String(body, ISO_8859_1); // one byte per character, so that lengths stay
        var parts = new ArrayList<Part>();
        for (var section : text.split(Pattern.quote("\r\n--" + match.group(1)), -1)) {
            int blank = section.indexOf("\r\n\r\n");
            if (blank >= 0) parts.add(part(utf8(section.substring(0, blank)),
                    section.substring(blank + 4).getBytes(ISO_8859_1)));
        }
        return parts;
    }

    private static String utf8(String bytes) {
        return new String(bytes.getBytes(ISO_8859_1), UTF_8);
    }

    private static Part part(String head, byte[] content) {
        var name = Pattern.compile("filename=\"(.*?)\"").matcher(head);
        boolean isFile = name.find();
        return new Part(found(head, "; name=\"(.*?)\""), isFile ? name.group(1) : "", isFile,
                found(head, "(?i)Content-Type: *([^\\r\\n]+)"), content);
    }

    private static String found(String text, String pattern) {
        var match = Pattern.compile(pattern).matcher(text);
        return match.find() ? match.group(1) : "";
    }
}
