import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/**
 * What Java's own HTTP client makes of the server. As it comes, it offers HTTP/2 (h2c) with its requests.
 *
 * Usage: java HttpClientOfJava.java URL FILE COUNT: requests the models COUNT times in a row with one client, with a
 * transcription in between now and then, and prints the last transcript.
 */
public class HttpClientOfJava {
    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        byte[] form = form(Files.readAllBytes(Path.of(arguments[1])));
        int count = Integer.parseInt(arguments[2]);
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest models = HttpRequest.newBuilder(URI.create(url + "/v1/models")).build();
        String transcript = "";
        for (int number = 1; number <= count; number++) {
            expect(200, client.send(models, HttpResponse.BodyHandlers.ofString()));
            if (number % (count / 2) == 0) {
                transcript = transcribe(client, url, publisher(form, number == count)).body();
            }
        }
        System.out.print(transcript);
    }

    /** The body with its length, or in chunks. */
    static HttpRequest.BodyPublisher publisher(byte[] form, boolean chunked) {
        return chunked
            ? HttpRequest.BodyPublishers.ofByteArrays(List.of(form))
            : HttpRequest.BodyPublishers.ofByteArray(form);
    }

    static HttpResponse<String> transcribe(HttpClient client, String url, HttpRequest.BodyPublisher body)
            throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url + "/v1/audio/transcriptions"))
            .header("Content-Type", "multipart/form-data; boundary=x")
            .POST(body)
            .build();
        return expect(200, client.send(request, HttpResponse.BodyHandlers.ofString()));
    }

    static HttpResponse<String> expect(int status, HttpResponse<String> response) {
        if (response.statusCode() != status) {
            throw new IllegalStateException(response.statusCode() + ": " + response.body());
        }
        return response;
    }

    static byte[] form(byte[] audio) throws Exception {
        ByteArrayOutputStream form = new ByteArrayOutputStream();
        String head = "--x\r\nContent-Disposition: form-data; name=\"response_format\"\r\n\r\ntext\r\n"
            + "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n";
        form.write(head.getBytes());
        form.write(audio);
        form.write("\r\n--x--\r\n".getBytes());
        return form.toByteArray();
    }
}
